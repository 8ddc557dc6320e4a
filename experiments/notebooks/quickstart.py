# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart
#
# **How do I train one model on several domains, in ten lines of Python?**
#
# Digits holds four domains of the same ten classes, each turned by an angle of its own, so that images of one class
# want different filters in different domains. A MoLA-Router keeps low-rank experts inside one small network; a second
# network looks at each image and mixes them. All images come from Python packages that are installed already. It
# takes minutes on a CPU.
#
# The other method, MoLA-Grad, picks the expert by the domain's name instead of looking at the image: write `MoLAGrad`
# for `MoLARouter`, and see how the last figure changes.

# %%
import logging
from pathlib import Path

from IPython.display import Image, Markdown, display
from lightning.pytorch import Trainer, seed_everything

import mola_lightning
from mola_lightning import MoLARouter, MultiTaskDataModule
from mola_lightning.analysis import Records, confusion_matrix, mixing_heatmap, save
from mola_lightning.backbones import create_small_resnet
from mola_lightning.data import Digits
from mola_lightning.training.callbacks import TestRecords

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
seed_everything(0, verbose=False)

# %% [markdown]
# What you may change. The tests of this project run the notebook with smaller numbers.

# %% tags=["parameters"]
NUM_TRAIN = 800  # training images of each domain
EPOCHS = 15
IMAGE_SIZE = 28  # pixels
RUNS = Path(mola_lightning.__file__).parents[2] / "runs" / "notebooks"  # in the checkout, wherever Jupyter was started

# %% [markdown]
# ## The data
#
# A row for each domain: handwritten digits from two collections, printed ones, and digits blended into photographs.

# %%
FOLDER = RUNS / "quickstart"
source = Digits(num_train=NUM_TRAIN, image_size=IMAGE_SIZE)
display(Image(source.write_contact_sheet(FOLDER / "digits.png")))

# %% [markdown]
# ## The ten lines

# %%
data = MultiTaskDataModule(source, batch_size=64)
model = MoLARouter(data.tasks, create_small_resnet, image_shape=data.image_shape, rank=2, alpha=2)
trainer = Trainer(
    max_epochs=EPOCHS,
    accelerator="cpu",
    callbacks=[TestRecords(FOLDER, num_conflict_batches=0)],  # keeps what the figures below are drawn from
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, data)
(test,) = trainer.test(model, data, verbose=False)

# %% [markdown]
# ## What came out
#
# The share of test images that are named rightly; guessing would give 10 %.

# %%
accuracy = {task.name: test[f"test/{task.name}/accuracy"] for task in data.tasks}
rows = [f"| {name} | {100 * value:.1f} |" for name, value in accuracy.items()]
display(Markdown("\n".join(["| domain | test accuracy (%) |", "|---|---:|", *rows])))
assert abs(test["test/mean/accuracy"] - sum(accuracy.values()) / len(accuracy)) < 1e-6
assert test["test/mean/accuracy"] > 0.15, "hardly better than guessing"

# %% [markdown]
# Which digits are taken for which, on the domain that is hardest: true classes in rows, predicted ones in columns.

# %%
found = Records.load(FOLDER)
figure = confusion_matrix(found.confusion["photo"], "photo", found.class_names["photo"])
display(Image(save(figure, FOLDER / "confusion_photo"), retina=True))

# %% [markdown]
# Who uses which expert: the mean mixing weights of each domain's test images. Rows that are alike are domains that
# share their experts; the router sees the image only, not the name of its domain. `mechanism.ipynb` looks closer.

# %%
figure = mixing_heatmap(found.mean_mixing, found.tasks)
display(Image(save(figure, FOLDER / "mixing_weights"), retina=True))
assert found.mean_mixing.shape == (len(data.tasks), 4)
assert abs(found.mean_mixing.sum(axis=1) - 1).max() < 1e-5, (
    "the experts of an image are mixed with weights that sum to one"
)
