"""Restoration without learned weights, by name: what a restoring network is compared with.

Images are float32 `(*sides, channels)` of two or three sides. A filter is a function `image ->
image` with keyword-only options; an inpainter takes the mask of the holes beside.
"""

FILTERS = {
    "median": "segkit.classical.restoration.filters:median",
    "non_local_means": "segkit.classical.restoration.filters:non_local_means",
    "total_variation": "segkit.classical.restoration.filters:total_variation",
    "bicubic": "segkit.classical.restoration.filters:bicubic",
}
INPAINTERS = {
    "biharmonic": "segkit.classical.restoration.inpainting:biharmonic",
}
