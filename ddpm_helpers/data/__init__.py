"""How a folder of images becomes a batch.

1. `folder` lists the files; `layout` finds splits, classes and labels in their names.
2. `decode` turns each file into a square, upright and in sRGB: (3, S, S) uint8.
3. `cache` collects the squares in one .npy file, in an order that mixes the classes (`order`), and
   opens that file memory-mapped. Later calls list the files, open this cache and skip step 2.
4. `ImageDataset.batches` takes rows of it in an order that depends on seed and epoch, copies them
   to the device and converts them to [-1, 1].

`cartoons`, `published` (CIFAR-10, MNIST) and `objects` (any map-style dataset) replace steps 1
and 2. Like `folder`, each of them makes a `Source`, from which a cache is made.
"""

from .dataset import ImageDataset
from .order import balanced_order

__all__ = ["ImageDataset", "balanced_order"]
