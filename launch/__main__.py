# SPDX-License-Identifier: Apache-2.0
"""Entry point: `python -m launch SUBCOMMAND`."""

import sys

from launch import cli

sys.exit(cli.main())
