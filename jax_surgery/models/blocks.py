# SPDX-License-Identifier: Apache-2.0
"""The parts of a decoder's layer, as Flax NNX modules.

They are those of Llama; another architecture overrides what differs. Letters
of shapes are those of `models.layout`, and B rows, T tokens.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jax_surgery.models import attention as attn
from jax_surgery.models.compute import PRODUCT
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.layout import BIASES, MATRICES, Row
from jax_surgery.parallel import mesh as meshes
from jax_surgery.parallel import partition


def _product(x, kernel, inputs: int):
    """x @ kernel over the kernel's first `inputs` axes, which x's last holds; 2-D inside.

    Flattening to two dimensions makes the backward products much faster on CPU.
    """
    width = x.shape[-1]
    flat = x.reshape(-1, width) @ kernel.reshape(width, -1)
    return flat.reshape(*x.shape[:-1], *kernel.shape[inputs:])


def _second_moment(x, weights_BT):
    """sum_t w_t x_t x_t^T over all tokens, float32."""
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    weighted = flat * weights_BT.reshape(-1, 1)
    return meshes.constrain(jnp.matmul(weighted.T, flat, precision="highest"), "fsdp")


@jax.custom_vjp
def _with_moment(y, moment_YY):
    """y, whose gradients' second moment is the gradient of `moment_YY`."""
    del moment_YY
    return y


def _with_moment_backward(_, gradient):
    return gradient, _second_moment(gradient, jnp.ones(gradient.shape[:-1]))


_with_moment.defvjp(lambda y, _: (y, None), _with_moment_backward)


class Kernel(nnx.Module):
    """A weight, applied by `_product`, and a bias where the config names its matrix.

    Where the parameters hold factors of a low-rank delta beside it (`lora_a`, `lora_b`,
    see `optim.lora`), their product with x is added. Neither the
    sum of the weights nor its gradient is ever formed. Where they hold an
    `output_moment` [outputs, outputs], its value is not read, and its gradient is the
    sum of g g^T over tokens, with g the gradient of a token's outputs (see
    `optim.precondition.output_moments`).
    """

    lora_a = lora_b = output_moment = None
    bias: nnx.Param | None = None

    def __init__(self, row: Row, c: ModelConfig, std: float, *, rngs: nnx.Rngs):
        shape = row.shape(c)
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), shape))
        self.row = row
        if row.stacked and row.name in c.biases:
            self.bias = nnx.Param(jnp.zeros(BIASES[row.name].shape(c)))

    def _apply(self, x, leaf: str):
        """The product with the weight or with a factor."""
        row = self.row if leaf == "kernel" else self.row.factors[leaf]
        spec = tuple(row.layer_spec)
        weight = partition.gather(getattr(self, leaf)[...], spec, str(x.dtype))
        return _product(x, weight, row.inputs)

    def __call__(self, x):
        y = self._apply(x, "kernel")
        if self.bias is not None:
            y += self.bias[...].astype(y.dtype)
        if self.lora_a is not None:
            with jax.named_scope("lora"):
                inner = checkpoint_name(self._apply(x, "lora_a"), PRODUCT)
                y += self._apply(inner, "lora_b")
        if self.output_moment is not None:
            flat = y.reshape(*x.shape[:-1], -1)
            y = _with_moment(flat, self.output_moment[...]).reshape(y.shape)
        return checkpoint_name(y, PRODUCT)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, float32 inside."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.eps = eps

    def __call__(self, x):
        x32 = x.astype(jnp.float32)
        mean = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        normed = (x32 * jax.lax.rsqrt(mean + self.eps)).astype(x.dtype)
        return normed * self.scale[...].astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        std = c.initializer_range
        self.q = Kernel(MATRICES["q"], c, std, rngs=rngs)
        self.k = Kernel(MATRICES["k"], c, std, rngs=rngs)
        self.v = Kernel(MATRICES["v"], c, std, rngs=rngs)
        out = std / math.sqrt(2 * c.num_layers)
        self.o = Kernel(MATRICES["o"], c, out, rngs=rngs)

    def queries_and_keys(self, x):
        """[B, T, N, H] and [B, T, K, H], not rotated yet."""
        return self.q(x), self.k(x)

    def project(self, x, cos, sin):
        """Rotated queries and keys, and values."""
        q, k = self.queries_and_keys(x)
        return (
            checkpoint_name(attn.rotate(q, cos, sin), "query"),
            checkpoint_name(attn.rotate(k, cos, sin), "key"),
            checkpoint_name(self.v(x), "value"),
        )

    def output(self, context_BTNH):
        """The heads' contexts [B, T, N * H], and their projection [B, T, D]."""
        context = context_BTNH.reshape(*context_BTNH.shape[:2], -1)
        return context, self.o(context)


class NormedAttention(Attention):
    """Attention whose queries and keys pass an RMS norm over the width of a head."""

    norm_class = RMSNorm

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(c, rngs=rngs)
        self.q_norm = self.norm_class(c.head_dim, c.rms_norm_eps)
        self.k_norm = self.norm_class(c.head_dim, c.rms_norm_eps)

    def queries_and_keys(self, x):
        return self.q_norm(self.q(x)), self.k_norm(self.k(x))


class MLP(nnx.Module):
    """SwiGLU."""

    activation = staticmethod(jax.nn.silu)

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        std = c.initializer_range
        self.gate = Kernel(MATRICES["gate"], c, std, rngs=rngs)
        self.up = Kernel(MATRICES["up"], c, std, rngs=rngs)
        out = std / math.sqrt(2 * c.num_layers)
        self.down = Kernel(MATRICES["down"], c, out, rngs=rngs)

    def hidden(self, x):
        return self.activation(self.gate(x)) * self.up(x)


class Block(nnx.Module):
    """One layer: attention and MLP, each behind a norm and a residual."""

    attention_class = Attention
    mlp_class = MLP
    norm_class = RMSNorm  # of the final norm too

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        self.attention_norm = self.norm_class(c.hidden_size, c.rms_norm_eps)
        self.attention = self.attention_class(c, rngs=rngs)
        self.mlp_norm = self.norm_class(c.hidden_size, c.rms_norm_eps)
        self.mlp = self.mlp_class(c, rngs=rngs)

    def after_attention(self, y):
        """What attention adds to the residual stream, of what it gives."""
        return y

    def after_mlp(self, y):
        """What the MLP adds to the residual stream, of what it gives."""
        return y

    def __call__(
        self, x, attend, cos, sin, moments_weight_BT=None, gates_BP=None
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array] | None]:
        """x [B, T, D] -> (x, x after attention alone, second moments of the matrices'
        inputs or None).

        `attend(q, k, v)` closes over the mask or the cache. `gates_BP` are factors on what
        attention and MLP add, for each row; None: 1.
        """

        def gated(y, part: int):
            if gates_BP is None:
                return y
            return y * gates_BP[:, part, None, None].astype(y.dtype)

        attention_in = self.attention_norm(x)
        with jax.named_scope("attention"):
            context = attend(*self.attention.project(attention_in, cos, sin))
            attention_out, y = self.attention.output(context)
            after_attention = x = x + gated(self.after_attention(y), 0)
        mlp_in = self.mlp_norm(x)
        with jax.named_scope("mlp"):
            mlp_hidden = self.mlp.hidden(mlp_in)
            x = x + gated(self.after_mlp(self.mlp.down(mlp_hidden)), 1)
        if moments_weight_BT is None:
            return x, after_attention, None
        inputs = {
            "attention_in": attention_in,
            "attention_out": attention_out,
            "mlp_in": mlp_in,
            "mlp_hidden": mlp_hidden,
        }
        moments = {k: _second_moment(v, moments_weight_BT) for k, v in inputs.items()}
        return x, after_attention, moments
