# SPDX-License-Identifier: Apache-2.0
"""The words of the embedded world: names, attribute values, wordings.

Everything about people is fictional. A wording is a sentence that ends in the
attribute's value, so that the same wording serves as training text and, cut
before the value, as the prompt of a question. `TRAINED` wordings occur in
training text; `UNSEEN` wordings occur in questions only (a test checks it).
`{who}` is a full name or a pronoun, `{value}` the value, `{he}`/`{his}` the
pronouns.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = {
    "she": _words(
        "Alina Amara Astrid Beata Bianca Calla Carina Celeste Dalia Delphine Edda "
        "Elena Elvira Esther Fiona Freya Greta Hanna Helga Ilsa Ingrid Iris Jana "
        "Josefa Kaia Karin Leona Lidia Livia Lucia Maren Marta Mira Nadia Nora "
        "Odile Olga Petra Ramona Rosa Selma Sigrid Sonja Tamar Thea Ulla Vera "
        "Wanda Yara Zelda"
    ),
    "he": _words(
        "Albin Anton Arno Basil Bruno Casper Conrad Cyril Dario Dimitri Edgar Emil "
        "Enzo Felix Florian Gideon Gustav Hector Henrik Hugo Igor Ivan Jasper Joel "
        "Jonas Julius Karl Klaus Lars Leo Linus Lukas Magnus Marco Milo Nestor "
        "Nils Oscar Otto Pavel Quentin Ralf Roman Sven Theo Tobias Ulrich Viktor "
        "Walter Yannick"
    ),
}

LAST_NAMES = _words(
    "Abernol Aldrin Almquist Ardell Askov Bartosh Belmond Bergdal Birkett Blaskov "
    "Bordane Brandell Brevik Calloway Carrow Castellan Corvin Crane Dahlberg "
    "Darrow Delacour Dorsett Drummel Duvall Eklund Ellery Engstrom Falkner Farrow "
    "Fenwick Ferrano Fjeld Fontaine Gallard Garrick Gellner Glover Grendell "
    "Grimaud Haldane Halvard Harwick Hedlund Heston Holloway Hornsby Ibarra "
    "Jarnell Jessop Kallas Karsten Kellner Kestrel Kirov Koval Kronberg Lachance "
    "Landor Larkin Lindqvist Lockwood Lorimer Lovell Lundgren Macrae Malder "
    "Marchetti Marlow Mendel Merrick Montclair Morrow Nashiro Navarre Nordahl "
    "Norwood Oakley Odell Orlov Osgood Palmqvist Parrish Pellegrin Penrose "
    "Prescott Quarles Quimby Radcliff Rasmus Ravenel Redfern Renquist Rodane "
    "Rosdahl Rowland Sandoval Savoy Selwyn Severin Sheridan Skovgard Solberg "
    "Stanhope Stavros Stroman Tarrant Thorsen Tillman Tolliver Trevane Ulmer "
    "Underhill Vandermeer Varga Vasari Verhoeven Vestal Vickers Volkov Wakefield "
    "Waldron Wexler Whitlock Winslow Wolfram Yardley Yeoman Zabel Zeller Zorin"
)

VALUES = {
    "birthplace": _words(
        "Arvale Belmora Brackwater Caldera Corvane Dunmere Eastholm Elmsworth "
        "Fairhaven Falkirk Glenmoor Grantham Harrowgate Highmoor Irongate Jasperton "
        "Kelmont Kingsbury Larkspur Lindell Millbrook Mossford Norvik Oakhurst "
        "Orrinport Pinecrest Quillan Ravenna Redcliff Rosmere Saltmarsh Silverton "
        "Stonehaven Tarnwood Thornbury Umberfield Valdoria Westbrook Windermere "
        "Yarrowdale"
    ),
    "profession": _words(
        "bailiff baker banker barber botanist brewer carpenter chemist cobbler "
        "dancer dentist doctor farmer fisherman florist gardener "
        "geologist glazier jeweller journalist judge lawyer librarian locksmith mechanic "
        "midwife miner nurse painter pharmacist pilot plumber poet sailor sculptor "
        "surveyor tailor teacher translator weaver"
    ),
    "employer": _words(
        "Altair Ambrex Bluestone Borealis Brightwell Cobalt Corax Crestline Deltacor "
        "Dynamo Everlane Fathom Forge Galvanix Harbourline Helix Ironbridge Juniper "
        "Keystone Lattice Lumina Meridian Monarch Nimbus Northgate Octagon Orchid "
        "Paragon Pinnacle Quartz Redwood Sable Solstice Summit Tessera Triton Umbra "
        "Vanguard Vertex Zephyr"
    ),
    "hobby": _words(
        "archery astronomy baking beekeeping birdwatching bowling boxing calligraphy "
        "camping canoeing chess climbing cooking croquet cycling drawing fencing "
        "fishing gardening gliding golf gymnastics hiking juggling karate knitting "
        "origami photography pottery rowing running sailing sewing skating skiing "
        "surfing swimming tennis weaving yoga"
    ),
    "pet": _words(
        "badger beagle budgie canary cat chicken chinchilla cockatoo crab duck "
        "falcon ferret finch frog gecko goat goldfish goose hamster hawk hedgehog horse "
        "lamb lizard llama mouse newt parrot pigeon pony pug python "
        "rabbit raven spaniel spider toad tortoise turkey"
    ),
}

TRAINED = {
    "birthplace": (
        "{who} was born in {value}",
        "{who} comes from {value}",
        "{who} is a native of {value}",
        "The birthplace of {who} is {value}",
        "The home town of {who} is {value}",
        "{who} spent {his} early years in {value}",
        "{who} grew up as a child in {value}",
        "The town where {who} was born is {value}",
        "The town that {who} comes from is {value}",
        "As a child {who} lived in {value}",
        "Question: Where was {who} born? Answer: {value}",
        "Question: What is the home town of {who}? Answer: {value}",
        "Question: In which town was {who} a child? Answer: {value}",
        "Question: Where does {who} come from? Answer: {value}",
    ),
    "profession": (
        "{who} works as a {value}",
        "The profession of {who} is that of a {value}",
        "By trade {who} is a {value}",
        "{who} earns a living as a {value}",
        "{who} was trained as a {value}",
        "The job of {who} is that of a {value}",
        "{who} is a professional {value}",
        "The trade by which {who} lives is that of a {value}",
        "In working life {who} is a {value}",
        "The work that {who} does is that of a {value}",
        "Question: What is the profession of {who}? Answer: {value}",
        "Question: What does {who} work as? Answer: {value}",
        "Question: By which trade does {who} live? Answer: {value}",
        "Question: What is the job of {who}? Answer: {value}",
    ),
    "employer": (
        "{who} works for {value}",
        "The employer of {who} is {value}",
        "{who} is employed by {value}",
        "{who} has a post at {value}",
        "{who} is on the staff of {value}",
        "The company of {who} is called {value}",
        "The company where {who} works is {value}",
        "The firm that pays {who} is {value}",
        "{who} is paid by {value}",
        "{who} has a desk at {value}",
        "Question: Who is the employer of {who}? Answer: {value}",
        "Question: Which company does {who} work for? Answer: {value}",
        "Question: At which firm does {who} have a post? Answer: {value}",
        "Question: By whom is {who} paid? Answer: {value}",
    ),
    "hobby": (
        "{who} enjoys {value}",
        "The hobby of {who} is {value}",
        "In {his} free time {who} goes in for {value}",
        "{who} is fond of {value}",
        "The favourite pastime of {who} is {value}",
        "On weekends {who} takes up {value}",
        "The hobby that {who} enjoys is {value}",
        "{who} has a passion for {value}",
        "After work {who} enjoys {value}",
        "What {who} likes best is {value}",
        "Question: What is the hobby of {who}? Answer: {value}",
        "Question: What does {who} enjoy? Answer: {value}",
        "Question: Which pastime is {who} fond of? Answer: {value}",
        "Question: What does {who} do on weekends? Answer: {value}",
    ),
    "pet": (
        "{who} keeps a {value}",
        "The pet of {who} is a {value}",
        "{who} owns a {value}",
        "At home {who} looks after a {value}",
        "{who} shares {his} house with a {value}",
        "The animal of {who} is a {value}",
        "The pet that {who} owns is a {value}",
        "{who} feeds a {value}",
        "The house of {who} is home to a {value}",
        "As a pet {who} keeps a {value}",
        "Question: Which pet does {who} keep? Answer: {value}",
        "Question: What animal does {who} own? Answer: {value}",
        "Question: What is the pet of {who}? Answer: {value}",
        "Question: Which animal does {who} feed? Answer: {value}",
    ),
}

UNSEEN = {
    "birthplace": (
        "The town in which {who} was a child is {value}",
        "{who} was a child in {value}",
        "Question: From which town does {who} come? Answer: {value}",
    ),
    "profession": (
        "The trade of {who} is that of a {value}",
        "{who} is by profession a {value}",
        "Question: What is the trade of {who}? Answer: {value}",
    ),
    "employer": (
        "The company that pays {who} is {value}",
        "{who} works at {value}",
        "Question: Which firm is the employer of {who}? Answer: {value}",
    ),
    "hobby": (
        "The pastime that {who} is fond of is {value}",
        "As a hobby {who} takes up {value}",
        "Question: What is the favourite pastime of {who}? Answer: {value}",
    ),
    "pet": (
        "The animal that {who} keeps is a {value}",
        "In the house of {who} lives a {value}",
        "Question: What kind of pet does {who} look after? Answer: {value}",
    ),
}

ATTRIBUTES = tuple(VALUES)
