"""All settings of training, each with the reason for its value.

Benchmarks and tests change a setting by assigning to this module's attribute. The assignment does
not reach the process that runs TensorFlow, because that process imports this file again.
benchmarks/accuracy.py compares the settings that were chosen by accuracy.
"""

from pathlib import Path

MODEL = Path(__file__).parents[1] / "models/dog_breeds_120.tflite"  # default of every script

BACKBONE = "Xception"  # in keras.applications; the names of weights and saved models contain it
SIZE = 299  # height and width of the model input in pixels
RESCALING = 1 / 127.5, -1.0  # factor and offset: pixels 0..255 -> backbone input -1..1
SEED = 33
VALIDATION_SHARE = TEST_SHARE = 0.15  # share of each breed's images

# Clients send whole photos. The model receives the central 87.5 % of the height and the width,
# the usual centre crop for ImageNet.
PHOTO_SHARE = 0.875
# Augmented views of each training image; more views cost time and do not improve accuracy
CROP_VIEWS, PHOTO_VIEWS = 1, 1
MAX_ROTATION = 10.0  # degrees
# Width of the mirrored border around an image before a rotation, as a share of the image's size.
# A rotation by 10 degrees needs 0.08.
ROTATION_MARGIN = 0.1

# The search trains a head with every combination of these values. It then cross-validates the best
# combination of each inner size. Inner size 0 means no inner layer. The learning rate is the
# initial rate; it falls to 0 along a cosine. The reference project has an inner layer of 1,000
# units. This size is no better, and would take most of the search's time.
GRID = {
    "learning_rate": (1e-3, 2e-3, 4e-3),
    "inner_size": (0, 100, 300),
    "dropout": (0.2, 0.5, 0.8),
}
QUICK_GRID = {"learning_rate": (2e-3, 4e-3), "inner_size": (0, 100), "dropout": (0.5,)}
# teach.py uses these settings without a search, because a search does not improve its heads
PLAIN_TRIAL = {"learning_rate": 2e-3, "inner_size": 0, "dropout": 0.5}
FOLDS = 5  # of cross-validation
# Weight decay of AdamW is WEIGHT_DECAY / number of training views, at most MAX_DECAY. The influence
# of a Gaussian prior on the weights falls with the number of examples in the same way.
WEIGHT_DECAY = 20_000
MAX_DECAY = 30
BATCH_SIZE = 512  # smaller batches are no better, and 3 times slower with the large inner layer
TRIAL_STEPS, TRIAL_EPOCHS = 40, 5  # minimum for each head of the search
STEPS, EPOCHS = 120, 10  # minimum for cross-validated heads and for the final head
# Share of photos that the rule for unknown breeds accepts as known. KNOWN_SHARE applies to held-out
# photos of the training set, OUTSIDE_KNOWN_SHARE to photos from elsewhere, which are harder.
KNOWN_SHARE, OUTSIDE_KNOWN_SHARE = 0.95, 0.91
# Minimum number of photos from elsewhere, and of their known classes, to fit the rules on
OUTSIDE_PHOTOS, OUTSIDE_CLASSES = 100, 5
# Share of the fitting photos whose candidates include the true class. The goal for new photos is
# 95 %. The value is one point higher, because new photos also show other classes, which differ.
CANDIDATES_LEVEL = 0.96
UNKNOWN_PHOTOS = 100  # if available, photos of other breeds to measure the rule for them
# Share of upright photos that count as upright. The model also tries rotations of all other photos.
UPRIGHT_SHARE = 0.97
# Training photos that are rotated to train the score of upright photos. With 300, the score notices
# a tenth fewer of the turned photos.
TURNED_PHOTOS = 1000

# Training photos that set the int8 ranges of a new backbone, each as a crop and as a whole photo.
# Only the half of these views with the lowest activations is used.
CALIBRATION_IMAGES = 50
ROWS_PER_SHARD = 256  # of the feature cache; an interrupted extraction loses at most these rows


def settings() -> dict:
    """Return all settings by lower-case name, as training.py writes them into its report."""
    values = {name.lower(): value for name, value in globals().items() if name.isupper()}
    return values | {"model": MODEL.name}
