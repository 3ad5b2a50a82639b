"""Worker of `benchmarks/augmentation.py`: times one peer's augmentation, in the peers' Python.

Reads lines `NAME COUNT` and answers each with the seconds that COUNT patches took. One thread.
"""

import os
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

import monai.transforms as monai
import numpy as np
import torch
import torchio
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

SOURCE, PATCH = (128,) * 3, (96,) * 3
ANGLE = float(np.deg2rad(30))


def batchgenerators(image, label):
    """Rotation, scaling, elastic deformation, gamma and noise, all always on."""
    spatial = SpatialTransform(
        PATCH,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=1,
        p_rotation=1,
        rotation=(-ANGLE, ANGLE),
        p_scaling=1,
        scaling=(0.7, 1.4),
        p_synchronize_scaling_across_axes=1,
        bg_style_seg_sampling=False,
    )
    gamma = GammaTransform((0.7, 1.5), 0, False, 1, 1)
    noise = GaussianNoiseTransform((0, 0.1), 1, True)
    return lambda: noise(**gamma(**spatial(image=image.clone(), segmentation=label)))


def nnunet(image, label):
    """nnU-Net's own policy, from its trainer."""
    change = nnUNetTrainer.get_training_transforms(PATCH, (-ANGLE, ANGLE), None, (0, 1, 2), False)
    return lambda: change(image=image.clone(), segmentation=label)


def with_monai(image, label):
    """The same five changes as `batchgenerators`."""
    change = monai.Compose(
        [
            monai.Rand3DElasticd(
                ["image", "label"],
                sigma_range=(8, 8),
                magnitude_range=(0, 200),
                prob=1,
                rotate_range=(ANGLE,) * 3,
                scale_range=((-0.3, 0.4),) * 3,
                spatial_size=PATCH,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            monai.RandAdjustContrastd(["image"], prob=1, gamma=(0.7, 1.5), retain_stats=True),
            monai.RandGaussianNoised(["image"], prob=1, std=0.1),
        ]
    )
    return lambda: change({"image": image, "label": label})


def with_torchio(image, label):
    """The same five changes, on a patch cut out before, which is TorchIO's fastest way."""
    change = torchio.Compose(
        [
            torchio.CropOrPad(PATCH),
            torchio.RandomAffine(scales=(0.7, 1.4), degrees=30),
            torchio.RandomElasticDeformation(num_control_points=7, max_displacement=5),
            torchio.RandomGamma(log_gamma=(-0.35, 0.4)),
            torchio.RandomNoise(std=(0, 0.1)),
        ]
    )
    return lambda: change(
        torchio.Subject(
            image=torchio.ScalarImage(tensor=image), label=torchio.LabelMap(tensor=label)
        )
    )


def main():
    """Answers requests until the input ends."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    image = torch.randn(1, *SOURCE)
    label = torch.randint(0, 3, (1, *SOURCE), dtype=torch.int16)
    makers = {
        "batchgeneratorsv2": batchgenerators,
        "nnU-Net": nnunet,
        "MONAI": with_monai,
        "TorchIO": with_torchio,
    }
    peers = {name: make(image, label) for name, make in makers.items()}
    for line in sys.stdin:
        name, count = line.split()
        start = time.perf_counter()
        for _ in range(int(count)):
            peers[name]()
        print("seconds", time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
