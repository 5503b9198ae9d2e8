"""Batch norm with the statistics of the whole batch, even when several processes share it."""

from torch import Tensor, nn

from speechssl.core import dist


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm1d and BatchNorm2d in one, on any device; in training, statistics are taken over all processes.

    torch's SyncBatchNorm does that on GPUs only. Parameters and buffers have torch's names.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any (B, C, ...)."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...), normalised per channel. A channel with a single value, which torch refuses, becomes its
        bias."""
        if not self.training or (dist.world() == 1 and input.numel() > input.shape[1]):
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        rest = [0, *range(2, input.dim())]
        shape = (1, -1, *[1] * (input.dim() - 2))
        x = input.float()
        n = dist.all_sum_float(x.numel() / x.shape[1])
        mean_C = dist.all_sum_grad(x.sum(rest)) / n
        centred = x - mean_C.view(shape)
        var_C = dist.all_sum_grad(centred.square().sum(rest)) / n
        self.num_batches_tracked.add_(1)
        # torch's None: the average of all batches so far
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C.detach(), momentum)
        self.running_var.lerp_(var_C.detach() * (n / max(n - 1, 1)), momentum)
        y = centred * (var_C + self.eps).rsqrt().view(shape)
        return (y * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)


def standardised(x: Tensor, own_rank: bool = False) -> Tensor:
    """Standardise x by the mean and the unbiased std of all its values over all ranks (`own_rank`: of this one): the
    "post-norm" of BYOL-A. No gradient."""
    n = x.numel() if own_rank else dist.all_sum_float(x.numel())
    mean = (x.sum() if own_rank else dist.all_sum(x.sum())) / n
    power = (x - mean).square().sum()
    std = ((power if own_rank else dist.all_sum(power)) / max(n - 1, 1)).sqrt()
    return (x - mean) / std.clamp_min(1e-5)
