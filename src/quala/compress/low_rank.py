"""Linear and embedding layers of low rank: two smaller matrices in place of one."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from quala.errors import QualaError
from quala.models.families import float_product


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return U sqrt(S) (m, rank) and sqrt(S) V^T (rank, n), the closest product to `matrix`.

    Closest in the Frobenius norm (Eckart-Young). Each factor takes the square roots of the
    singular values, so that both have weights of one size. Half precision is decomposed in
    float32.

    Raises:
        QualaError: for a rank outside 1 to min(m, n).
    """
    most = min(matrix.shape)
    if not 1 <= rank <= most:
        raise QualaError(f"`rank` must be 1 to {most}, got {rank}.")
    wide = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    left, values, right = torch.linalg.svd(wide, full_matrices=False)
    root = values[:rank].sqrt()  # (rank,)
    first, second = left[:, :rank] * root, root[:, None] * right[:rank]
    return first.to(matrix.dtype).contiguous(), second.to(matrix.dtype).contiguous()


class FactorizedLinear(nn.Module):
    """y = (x down^T) up^T + bias, with `down` (rank, in) and `up` (out, rank) plain linear layers.

    Raises:
        QualaError: for a rank below 1.
    """

    def __init__(
        self, in_features: int, out_features: int, rank: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        if rank < 1:
            raise QualaError(f"`rank` must be 1 or more, got {rank}.")
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear | FactorizedLinear, rank: int) -> Self:
        """Return the truncated SVD of `linear`, which may be of low rank already.

        Raises:
            QualaError: for a rank outside 1 to the smaller side of the matrix.
        """
        if isinstance(linear, FactorizedLinear):
            weight, bias = linear.dense_weight(), linear.up.bias
        else:
            weight, bias = linear.weight, linear.bias
        up, down = truncated_svd(weight, rank)
        with torch.device("meta"):
            layer = cls(weight.shape[1], weight.shape[0], rank, bias=bias is not None)
        trains = weight.requires_grad
        layer.down.weight = nn.Parameter(down, requires_grad=trains)
        layer.up.weight = nn.Parameter(up, requires_grad=trains)
        if bias is not None:
            layer.up.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        return layer.train(linear.training)

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.down.in_features

    @property
    def out_features(self) -> int:
        """Number of outputs."""
        return self.up.out_features

    @property
    def rank(self) -> int:
        """Width between the two factors."""
        return self.down.out_features

    def dense_weight(self) -> Tensor:
        """Return the matrix (out, in) that the factors stand for."""
        return self.up.weight @ self.down.weight

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = self.up(self.down(input))
        return product

    def float_product(self, input: Tensor) -> Tensor:
        """Apply both factors to an input that stays float."""
        return float_product(self.up, float_product(self.down, input))


class FactorizedEmbedding(nn.Module):
    """Rows of a narrow `table` (rows, rank), taken to full width by the layer `up` (width, rank).

    Raises:
        QualaError: for a rank below 1.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, rank: int, *, padding_idx: int | None = None
    ) -> None:
        super().__init__()
        if rank < 1:
            raise QualaError(f"`rank` must be 1 or more, got {rank}.")
        self.table = nn.Embedding(num_embeddings, rank, padding_idx=padding_idx)
        self.up = nn.Linear(rank, embedding_dim, bias=False)

    @classmethod
    def from_embedding(cls, embedding: nn.Embedding | FactorizedEmbedding, rank: int) -> Self:
        """Return the truncated SVD of `embedding`, which may be of low rank already.

        Raises:
            QualaError: for a rank outside 1 to the smaller side of the table.
        """
        if isinstance(embedding, FactorizedEmbedding):
            weight, padding = embedding.dense_weight(), embedding.table.padding_idx
        else:
            weight, padding = embedding.weight, embedding.padding_idx
        table, widen = truncated_svd(weight, rank)
        with torch.device("meta"):
            layer = cls(weight.shape[0], weight.shape[1], rank, padding_idx=padding)
        trains = weight.requires_grad
        layer.table.weight = nn.Parameter(table, requires_grad=trains)
        layer.up.weight = nn.Parameter(widen.T.contiguous(), requires_grad=trains)
        return layer.train(embedding.training)

    @property
    def num_embeddings(self) -> int:
        """Number of rows."""
        return self.table.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Width of a row after `up`."""
        return self.up.out_features

    @property
    def rank(self) -> int:
        """Width of the table."""
        return self.table.embedding_dim

    def dense_weight(self) -> Tensor:
        """Return the table (rows, width) that the factors stand for."""
        return self.table.weight @ self.up.weight.T

    def forward(self, input: Tensor) -> Tensor:
        rows: Tensor = self.up(self.table(input))
        return rows


AnyLinear = nn.Linear | FactorizedLinear
AnyEmbedding = nn.Embedding | FactorizedEmbedding


def ends(linear: AnyLinear) -> tuple[nn.Linear, nn.Linear]:
    """Return the layer that reads the inputs and the one that makes the outputs.

    They are the two factors, or twice the same dense layer.
    """
    return (linear.down, linear.up) if isinstance(linear, FactorizedLinear) else (linear, linear)
