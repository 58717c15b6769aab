"""Images and annotations in COCO's format as a dataset for torchvision's detectors."""
import contextlib
import io
import random

import numpy
import torch
import torchvision
from PIL import Image
from pycocotools.coco import COCO

SHORTEST_SIDE = 1.0


class UserError(Exception):
    """Something that the user has to change, in one line."""


class CocoImages(torch.utils.data.Dataset):
    """A folder of images and its list of annotations. Labels count from 1; 0 is the background.

    For training, images come with targets, half of them mirrored; for validation, with their id."""

    def __init__(self, folder, boxes, kinds, train, fraction=1.0, seed=0):
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                self.list = COCO(str(boxes))
            except (KeyError, ValueError) as error:
                raise UserError(f"{boxes}: not in COCO's format: {error}") from error
        self.folder, self.kinds, self.train = folder, kinds, train
        self.categories = sorted(self.list.getCatIds())
        self.labels = {category: label for label, category in enumerate(self.categories, 1)}
        self.swaps, self.points = self.keypoints(boxes) if "keypoints" in kinds else ([], 0)
        self.ids = sorted(self.list.getImgIds())
        if train:
            self.ids = [image_id for image_id in self.ids if self.annotations(image_id)]
            random.Random(seed).shuffle(self.ids)
            self.ids = sorted(self.ids[: max(1, round(fraction * len(self.ids)))])
        if not self.ids:
            raise UserError(f"{boxes}: no image with a box for {' and '.join(kinds)}")

    def keypoints(self, boxes):
        """The index of each keypoint's left-right counterpart, and the number of keypoints."""
        names = self.list.loadCats(self.categories)[0].get("keypoints")
        if not names:
            raise UserError(f"{boxes}: no keypoints; take person_keypoints_*.json")

        def swapped(name):
            return name.replace("left", "\0").replace("right", "left").replace("\0", "right")

        return [names.index(swapped(name)) for name in names], len(names)

    def annotations(self, image_id):
        found = self.list.loadAnns(self.list.getAnnIds(image_id, iscrowd=False))
        usable = [a for a in found if min(a["bbox"][2:]) >= SHORTEST_SIDE]
        if "segm" in self.kinds:
            usable = [a for a in usable if a.get("segmentation")]
        if "keypoints" in self.kinds:
            usable = [a for a in usable if any(a.get("keypoints", [])[2::3])]
        return usable

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        image_id = self.ids[index]
        path = self.folder / self.list.imgs[image_id]["file_name"]
        image = torchvision.transforms.functional.to_tensor(Image.open(path).convert("RGB"))
        if not self.train:
            return image, {"image_id": image_id}
        target = self.target(self.annotations(image_id), image.shape[-2:])
        if torch.rand(()) < 0.5:
            image, target = self.mirrored(image, target)
        return image, target

    def target(self, annotations, size):
        boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2] = boxes[:, 0::2].clamp(0, size[1])
        boxes[:, 1::2] = boxes[:, 1::2].clamp(0, size[0])
        keep = ((boxes[:, 2:] - boxes[:, :2]) >= SHORTEST_SIDE).all(1)
        labels = torch.tensor([self.labels[a["category_id"]] for a in annotations])
        target = {"boxes": boxes[keep], "labels": labels[keep]}
        if "segm" in self.kinds:
            masks = numpy.stack([self.list.annToMask(a) for a in annotations])
            target["masks"] = torch.from_numpy(masks)[keep]
        if "keypoints" in self.kinds:
            points = torch.tensor([a["keypoints"] for a in annotations], dtype=torch.float32)
            target["keypoints"] = points.view(len(annotations), -1, 3)[keep]
        return target

    def mirrored(self, image, target):
        width = image.shape[-1]
        x0, y0, x1, y1 = target["boxes"].unbind(1)
        target["boxes"] = torch.stack([width - x1, y0, width - x0, y1], 1)
        if "masks" in target:
            target["masks"] = target["masks"].flip(-1)
        if "keypoints" in target:
            points = target["keypoints"][:, self.swaps].clone()
            flipped = width - points[..., 0]
            points[..., 0] = torch.where(points[..., 2] > 0, flipped, points[..., 0])
            target["keypoints"] = points
        return image.flip(-1), target


class EndlessSampler(torch.utils.data.Sampler):
    """A rank's part of a new permutation of all images in each epoch, without end.

    `first` is the number of images that all ranks have seen before."""

    def __init__(self, count, seed, rank, world_size, first):
        self.count, self.seed, self.world_size = count, seed, world_size
        self.next = first + rank

    def __iter__(self):
        index, permutation, epoch = self.next, None, -1
        while True:
            if index // self.count != epoch:
                epoch = index // self.count
                generator = torch.Generator().manual_seed(self.seed + epoch)
                permutation = torch.randperm(self.count, generator=generator).tolist()
            yield permutation[index % self.count]
            index += self.world_size
