"""Worker of `benchmarks/training_step.py`: nnU-Net's plain U-Net in PyTorch, on the CPU.

Called with batch size, first filters and threads; reads lines `COUNT` and answers each with the
seconds that COUNT training steps took.
"""

import sys
import time

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

PATCH, CLASSES, STAGES = (40, 56, 40), 3, 4


def make_network(filters):
    """nnU-Net's network for this patch, without deep supervision."""
    return PlainConvUNet(
        input_channels=1,
        n_stages=STAGES,
        features_per_stage=[filters * 2**n for n in range(STAGES)],
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=[1, *[2] * (STAGES - 1)],
        n_conv_per_stage=2,
        num_classes=CLASSES,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )


def ce_dice(logits, labels):
    """Cross-entropy and soft Dice of the foreground, half and half."""
    probs = logits.softmax(1)
    truth = nn.functional.one_hot(labels, CLASSES).movedim(-1, 1).float()
    axes = (2, 3, 4)
    overlap, total = (probs * truth).sum(axes), probs.sum(axes) + truth.sum(axes)
    dice = 1 - ((2 * overlap + 1e-5) / (total + 1e-5))[:, 1:].mean()
    return 0.5 * nn.functional.cross_entropy(logits, labels) + 0.5 * dice


def main(batch, filters, threads):
    """Answers requests until the input ends."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = make_network(filters)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True)
    images = torch.randn(batch, 1, *PATCH)
    labels = torch.randint(0, CLASSES, (batch, *PATCH))
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            optimizer.zero_grad(set_to_none=True)
            loss = ce_dice(network(images), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 12.0)
            optimizer.step()
            loss.item()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
