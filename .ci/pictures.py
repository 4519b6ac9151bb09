"""Pictures against NumPy and Pillow. Usage: pictures.py IJEPA RUN FOLDER (RUN: a folder with a model of 32x32 scenes)"""
import subprocess, sys
import numpy as np
from PIL import Image

ijepa, model, tmp = sys.argv[1:]
run = lambda *a: subprocess.run([ijepa, *map(str, a)], check=True, capture_output=True, text=True)
run("render", "--out", f"{tmp}/pics", "--images", 5)
run("features", "--model", model, "--data", f"{tmp}/pics", "--out", f"{tmp}/t.npy", "--tokens")
t = np.load(f"{tmp}/t.npy").astype(float)
n, N, d = t.shape
g = int(N ** 0.5)
run("show", f"{tmp}/pics", "--panels", "image,pca,similarity", "--model", model, "--images", n, "--patch", 1, "--out", f"{tmp}/show.png")
picture = Image.open(f"{tmp}/show.png")
assert picture.format == "PNG" and picture.mode == "RGB"
picture.verify()
a = np.array(Image.open(f"{tmp}/show.png")).astype(int)
cell = (a.shape[0] + 4) // n
side = cell - 4
zoom, patch = side // 32, side // g
panel = lambda b, k: a[b * cell:b * cell + side, k * cell:k * cell + side]
for b in range(n):
    want = np.array(Image.open(f"{tmp}/pics/scene_{b:06d}.ppm")).astype(int).repeat(zoom, 0).repeat(zoom, 1)
    assert (panel(b, 0) == want).all(), "the image itself"
z = t.reshape(-1, d)
u, s, v = np.linalg.svd(z - z.mean(0), full_matrices=False)
v = v[:3] * np.sign(v[np.arange(3), abs(v[:3]).argmax(1)])[:, None]
scores = (z - z.mean(0)) @ v.T
colour = np.clip((scores / (2 * np.sqrt((scores ** 2).mean(0))) + 1) / 2, 0, 1) * 255
colour = colour.reshape(n, g, g, 3).repeat(patch, 1).repeat(patch, 2)
worst = max(abs(panel(b, 1) - colour[b]).max() for b in range(n))
print(f"principal components: colours differ by {worst:.2f} of 255 at most")
assert worst <= 1
stops = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])
heat = lambda x: np.stack([np.interp(np.clip(x, 0, 1) * 4, range(5), stops[:, c]) for c in range(3)], -1)
unit = t / np.linalg.norm(t, axis=2, keepdims=True)
cosine = heat(((unit * unit[:, :1]).sum(2) + 1) / 2)
cosine[:, 0] = 255
cosine = cosine.reshape(n, g, g, 3).repeat(patch, 1).repeat(patch, 2)
worst = max(abs(panel(b, 2) - cosine[b]).max() for b in range(n))
print(f"similarity: colours differ by {worst:.2f} of 255 at most")
assert worst <= 1
run("show", f"{tmp}/pics", "--panels", "image,pca,similarity", "--model", model, "--images", n, "--patch", 1, "--out", f"{tmp}/show.ppm")
assert (np.array(Image.open(f"{tmp}/show.ppm")) == a).all(), "PPM and PNG"
# a hole: what is seen stays as it is, what is traced from the true targets is nearer to the truth than the mean of what is seen
run("predict", f"{tmp}/pics/scene_000001.ppm", "--model", model, "--hole", "8,8,16,16", "--out", f"{tmp}/predict.png")
p = np.array(Image.open(f"{tmp}/predict.png")).astype(int)
truth, cut, montage, nearest, sketch, traced = (p[:, k * (p.shape[0] + 4):][:, :p.shape[0]] for k in range(6))
z8 = p.shape[0] // 32
hole = np.zeros((32, 32), bool)
hole[8:24, 8:24] = True
hole = hole.repeat(z8, 0).repeat(z8, 1)
assert (cut[hole] == 128).all() and (cut[~hole] == truth[~hole]).all() and (montage[~hole] == truth[~hole]).all()
error = lambda x: np.sqrt(((x - truth)[hole] ** 2).mean())
mean = np.broadcast_to(truth[~hole].mean(0), truth.shape)
print(f"error in the hole: sketch {error(sketch):.1f}, traced {error(traced):.1f}, the mean of what is seen {error(mean):.1f}, nearest {error(nearest):.1f}")
assert error(traced) < error(mean)
