"""How a folder of images becomes a batch.

1. `image_folder` lists the files; `layout` finds splits, classes and labels in their names. The
   result is a `Collection`: what identifies its cache, and a function that reads the images.
2. `cache` looks for the collection's cache in the cache folder. If there is none, it makes one:
   `decode` turns each file into a square, upright and in sRGB, and all squares are stored in one
   .npy file, in an order that mixes the classes (`order`). The file is memory-mapped.
3. `ImageDataset.batches` takes images from the file in an order that depends on seed and epoch,
   copies them to the device and converts them to [-1, 1].

For other sources, `cartoons`, `published` (CIFAR-10, MNIST) or `objects` (any map-style dataset)
makes the `Collection` of step 1.
"""

from .dataset import ImageDataset
from .order import balanced_order

__all__ = ["ImageDataset", "balanced_order"]
