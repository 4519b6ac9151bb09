"""Interchange against the real packages: torch, transformers, safetensors, numpy. Usage: interchange.py IJEPA README FOLDER"""
import json, os, re, shutil, subprocess, sys
import numpy as np, torch, torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file
from transformers import IJepaConfig, IJepaForImageClassification, IJepaModel
import transformers

ijepa, readme, tmp = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.manual_seed(0)
rng = np.random.default_rng(0)
mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
failed = 0


def check(name, error, bound):
    global failed
    good = error <= bound
    failed += not good
    print(f"{'ok  ' if good else 'FAIL'} {name}: {error:.2g}, at most {bound:g}", flush=True)


def run(*args, code=0):
    r = subprocess.run([ijepa, *map(str, args)], capture_output=True, text=True)
    if r.returncode != code:
        sys.exit(f"{args}: exit {r.returncode}\n{r.stderr[-2000:]}")
    return r.stdout + r.stderr


def images(side, n, width=0):
    """PPM files, and the same pixels normalised [n,3,side,width or side]."""
    folder, x, width = f"{tmp}/images{side}", [], width or side
    fresh(folder)
    for i in range(n):
        a = np.kron(rng.integers(0, 256, (side // 4, width // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        open(f"{folder}/{i:03d}.ppm", "wb").write(b"P6 %d %d 255\n" % (width, side) + a.tobytes())
        x.append((torch.from_numpy(a).permute(2, 0, 1).float() / 255 - mean) / std)
    return folder, torch.stack(x)


def features(model, folder, *more):
    run("features", "--model", model, "--data", folder, "--out", f"{tmp}/f.npy", *more)
    return torch.from_numpy(np.load(f"{tmp}/f.npy"))


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def lines(title, *args, edit=lambda text: text):
    """Runs the Python block of README below this heading or these words."""
    text = open(readme).read().split(title, 1)[1]
    open(f"{tmp}/block.py", "w").write(edit(text.split("```python\n", 1)[1].split("```", 1)[0]))
    subprocess.run([sys.executable, f"{tmp}/block.py", *args], check=True, env=os.environ | {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"})


# ---- Hugging Face, in
hf = f"{tmp}/hf"
for side, p, d, depth, heads, hidden, eps, bound, head in [
        (224, 16, 192, 12, 3, 768, 1e-6, 1e-4, 0), (224, 14, 160, 12, 2, 640, 1e-12, 1e-4, 1), (96, 16, 176, 12, 2, 768, 1e-6, 1e-4, 0),
        (224, 14, 160, 32, 2, 640, 1e-6, 1e-3, 0)]:
    folder, x = images(side, 2)
    config = IJepaConfig(hidden_size=d, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=hidden, image_size=side,
                         patch_size=p, layer_norm_eps=eps)
    model = (IJepaForImageClassification if head else IJepaModel)(config).eval()
    encoder = model.ijepa if head else model
    with torch.no_grad():
        want = encoder(x, output_hidden_states=True)
    model.save_pretrained(fresh(hf))
    name = f"{side}/{p}, width {d}, {heads} heads, MLP {hidden}, {depth} blocks"
    check(f"transformers' features, {name}", (features(hf, folder, "--tokens") - want.last_hidden_state).abs().max(), bound)
    if depth == 12 and side == 224:
        model.save_pretrained(fresh(f"{tmp}/shards"), max_shard_size="2MB")
        assert os.path.exists(f"{tmp}/shards/model.safetensors.index.json")
        said = run("features", "--model", f"{tmp}/shards", "--data", folder, "--out", f"{tmp}/f.npy", code=1)
        assert 'IJepaModel.from_pretrained("DIR").save_pretrained("NEW", max_shard_size="99GB")' in said, said
        lines("several shards", f"{tmp}/shards", fresh(f"{tmp}/merged"))
        check("the same from shards, merged", (features(f"{tmp}/merged", folder, "--tokens") - want.last_hidden_state).abs().max(), bound)
    if depth == 12 and not head and side == 224:
        memory = encoder.state_dict()
        assert "layers.0.attention.q_proj.weight" in memory, "transformers 5's names in memory"
        for kind in (torch.float32, torch.bfloat16, torch.float16):
            tensors = {k: v.to(kind).contiguous() for k, v in reversed(list(memory.items()))}
            fresh(hf), save_file(tensors, f"{hf}/model.safetensors")
            config.save_pretrained(hf)
            rounded = IJepaModel(config).eval()
            rounded.load_state_dict({k: v.float() for k, v in tensors.items()})
            with torch.no_grad():
                want16 = rounded(x).last_hidden_state
            check(f"names of memory, {kind}", (features(hf, folder, "--tokens") - want16).abs().max(), 1e-4)
        for key, bad, words in (("model_type", "vit", 'model_type "ijepa"'), ("hidden_act", "relu", 'hidden_act "gelu"'),
                                ("layer_norm_eps", 0.1, "layer_norm_eps"), ("num_attention_heads", 7, "num_heads")):
            c = json.load(open(f"{hf}/config.json"))
            c[key] = bad
            json.dump(c, open(f"{hf}/config.json", "w"))
            assert words in run("features", "--model", hf, "--data", folder, "--out", f"{tmp}/f.npy", code=1), key
            config.save_pretrained(hf)

# ---- Hugging Face, out
shape = ("--embed_dim", 192, "--num_heads", 3, "--depth", 2, "--pred_emb_dim", 36, "--mlp_ratio", 3, "--average_top_k_layers", 0, "--vicreg", 0, "--final_lr", 0.001)
run("train", "--data", "data/scenes", "--steps", 3, "--batch_size", 8, "--warmup", 0, "--out", fresh(f"{tmp}/run") + "/a", *shape)
ours = f"{tmp}/run/a"
for encoder in ("target", "context"):
    lines("To Hugging Face", f"{ours}/latest.safetensors", fresh(hf), edit=lambda text: text if encoder == "target" else text.replace('"target_encoder."', '"encoder."'))
    model, why = IJepaModel.from_pretrained(hf, output_loading_info=True)
    assert not why["missing_keys"] and not why["unexpected_keys"], why
    folder, x = images(32, 4)
    with torch.no_grad():
        check(f"our {encoder} encoder in transformers", (model(x).last_hidden_state - features(ours, folder, "--tokens", "--encoder", encoder)).abs().max(), 1e-4)
    check("and back", (features(hf, folder) - features(ours, folder, "--encoder", encoder)).abs().max(), 0)
run("train", "--data", "data/scenes", "--steps", 3, "--batch_size", 8, "--warmup", 0, "--crop_size", "24,40", "--out", f"{tmp}/run/wide", *shape)
lines("To Hugging Face", f"{tmp}/run/wide/latest.safetensors", fresh(f"{tmp}/wide"))
wide, x = images(24, 2, 40)
with torch.no_grad():
    want = IJepaModel.from_pretrained(f"{tmp}/wide")(x).last_hidden_state
check("24 x 40 pixels in transformers", (want - features(f"{tmp}/run/wide", wide, "--tokens")).abs().max(), 1e-4)
check("and back", (features(f"{tmp}/wide", wide, "--tokens") - features(f"{tmp}/run/wide", wide, "--tokens")).abs().max(), 0)
c = json.load(open(f"{tmp}/wide/config.json"))
for bad, words in (([24, 44], "60 positions"), ([24, 40, 40], "two numbers"), ([24], "two numbers"), (["a", 2], "whole number"), ([0, 40], "60 positions"), ([40, 0], "two numbers"), (24, "a square of patches")):
    json.dump(c | {"image_size": bad}, open(f"{tmp}/wide/config.json", "w"))
    assert words in run("features", "--model", f"{tmp}/wide", "--data", wide, "--out", f"{tmp}/f.npy", code=1), bad
folder, x = images(32, 4)
p = json.load(open(f"{hf}/preprocessor_config.json"))
pixels = torch.stack([(torch.frombuffer(bytearray(open(f"{folder}/{i:03d}.ppm", "rb").read()[-3072:]), dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
                       * p["rescale_factor"] - torch.tensor(p["image_mean"]).view(3, 1, 1)) / torch.tensor(p["image_std"]).view(3, 1, 1) for i in range(4)])
check("the image processor's settings give our pixels", (pixels - x).abs().max(), 1e-5)
for f in (f"{ours}/latest.safetensors", f"{hf}/model.safetensors"):
    assert load_numpy(f)
run("features", "--model", ours, "--data", "scenes:40", "--out", f"{tmp}/g.npy", "--images", 7)
f, label = np.load(f"{tmp}/g.npy"), np.load(f"{tmp}/g.labels.npy")
assert f.shape == (7, 192) and f.dtype == np.float32 and label.shape == (7, 3) and label.dtype == np.int32 and label.min() >= 0 and label.std(0).all(), (f.shape, label)


# ---- the reference's checkpoints
class Step:
    """One step of I-JEPA on state dicts in the reference's layout, with torch's autograd and AdamW."""

    def __init__(self, tensors, heads, p, objective="jepa", vicreg=0):
        self.heads, self.p, self.objective, self.vicreg = heads, p, objective, vicreg
        self.part = {k: {n[len(k) + 1:]: v.clone() for n, v in tensors.items() if n.startswith(k + ".")} for k in ("encoder", "predictor", "target_encoder")}
        for k in ("encoder", "predictor"):
            for n, v in self.part[k].items():
                v.requires_grad_("pos_embed" not in n)
        order = {k: sorted(v, key=lambda n: {"mask_token": 0, "predictor_pos_embed": 1, "pos_embed": 1}.get(n, 2)) for k, v in self.part.items()}
        self.part = {k: {n: v[n] for n in order[k]} for k, v in self.part.items()}
        many = {k: [v for v in self.part[k].values() if v.ndim > 1] for k in ("encoder", "predictor")}
        one = {k: [v for v in self.part[k].values() if v.ndim < 2] for k in ("encoder", "predictor")}
        self.opt = torch.optim.AdamW([{"params": many["encoder"]}, {"params": many["predictor"]}, {"params": one["encoder"], "weight_decay": 0},
                                      {"params": one["predictor"], "weight_decay": 0}])

    def blocks(self, w, stack, x):
        for i in range(sum(n.startswith(stack) and n.endswith("norm1.bias") for n in w)):
            g = {n[len(f"{stack}.{i}."):]: v for n, v in w.items() if n.startswith(f"{stack}.{i}.")}
            y = F.layer_norm(x, x.shape[-1:], g["norm1.weight"], g["norm1.bias"], 1e-6)
            q, k, v = F.linear(y, g["attn.qkv.weight"], g["attn.qkv.bias"]).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + F.linear(y, g["attn.proj.weight"], g["attn.proj.bias"])
            y = F.layer_norm(x, x.shape[-1:], g["norm2.weight"], g["norm2.bias"], 1e-6)
            x = x + F.linear(F.gelu(F.linear(y, g["mlp.fc1.weight"], g["mlp.fc1.bias"])), g["mlp.fc2.weight"], g["mlp.fc2.bias"])
        return x

    def encode(self, w, x, keep=None):
        x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=self.p).flatten(2).transpose(1, 2) + w["pos_embed"]
        x = self.blocks(w, "blocks", x if keep is None else x[:, keep])
        return F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"], 1e-6)

    def joint(self, images, contexts):
        head = lambda w, x: F.linear(F.gelu(F.linear(x, w["fc1.weight"], w["fc1.bias"])), w["fc2.weight"], w["fc2.bias"])
        of = lambda w, name: {k[len(name):]: v for k, v in w.items() if k.startswith(name)}
        first, second = images.chunk(2)
        e, target, w = self.part["encoder"], self.part["target_encoder"], of(self.part["predictor"], "head.0.")
        total = 0
        for b, (image, other) in enumerate(zip(first, second)):
            with torch.no_grad():
                t = head(of(target, "projector.0."), self.encode(target, other[None]).mean(1))
            c = contexts[b]
            q = head(of(e, "projector.0."), self.encode(e, image[None], c).mean(1))
            total = total + 2 - 2 * F.cosine_similarity(head(w, q) if w else q, t).sum()
        return total / len(first)

    def loss(self, images, contexts, targets):
        """Lists differ in length from image to image: one at a time, the mean over all numbers at the end."""
        if self.objective == "joint":
            return self.joint(images, contexts)
        e, w, total, count = self.part["encoder"], self.part["predictor"], 0, 0
        for b, image in enumerate(images):
            with torch.no_grad():
                full = self.encode(self.part["target_encoder"], image[None])
                if self.objective == "generative":
                    full = F.unfold(image[None], self.p, stride=self.p).transpose(1, 2)
                full = F.layer_norm(full, full.shape[-1:])
            c = contexts[b]
            z = F.linear(self.encode(e, image[None], c), w["predictor_embed.weight"], w["predictor_embed.bias"]) + w["predictor_pos_embed"][:, c]
            for t in targets[b::len(images)]:
                x = self.blocks(w, "predictor_blocks", torch.cat([z, w["mask_token"] + w["predictor_pos_embed"][:, t]], 1))[:, len(c):]
                x = F.layer_norm(x, x.shape[-1:], w["predictor_norm.weight"], w["predictor_norm.bias"], 1e-6)
                x = F.linear(x, w["predictor_proj.weight"], w["predictor_proj.bias"])
                total = total + F.smooth_l1_loss(x, full[:, t], reduction="sum")
                count += x.numel()
        return total / count

    def variance(self, images, contexts):
        """Of the means of the contexts' tokens: VICReg's variance and covariance, 25 to 1."""
        z = torch.cat([self.encode(self.part["encoder"], x[None], k).mean(1) for x, k in zip(images, contexts)])   # [B,D]
        c = torch.cov(z.T)
        return (F.relu(1 - (c.diag() + 1e-4).sqrt()).sum() + (c - c.diag().diag()).square().sum() / 25) / len(c)

    def step(self, images, contexts, targets, lr, decay, ema):
        loss = self.loss(images, contexts, targets) + (self.vicreg and self.vicreg * self.variance(images, contexts))
        loss.backward()
        self.grad = {f"{k}.{n}": v.grad.clone() for k in ("encoder", "predictor") for n, v in self.part[k].items() if v.grad is not None}
        for g in self.opt.param_groups:
            g["lr"] = lr
            if g["weight_decay"]:
                g["weight_decay"] = decay
        self.opt.step()
        self.opt.zero_grad()
        with torch.no_grad():
            for n, v in self.part["target_encoder"].items():
                v.mul_(ema).add_(self.part["encoder"][n], alpha=1 - ema)
        return loss.item()


subprocess.run(["gcc", "-O2", "-march=native", "-std=c99", "-ffp-contract=off", "-w", "-o", f"{tmp}/step", f"{here}/step.c", f"{here}/../ijepa.c", "-lm"], check=True)


def step(model, x):
    """One step of ours: loss, learning rate, weight decay, EMA; context lists, target lists; the gradients."""
    save_file({"images": x.contiguous()}, f"{tmp}/images.safetensors")
    out = subprocess.run([f"{tmp}/step", model, f"{tmp}/images.safetensors", f"{tmp}/after.safetensors", f"{tmp}/gradient.safetensors"],
                         capture_output=True, text=True, check=True).stdout.splitlines()
    lists = [[torch.tensor([int(i) for i in line.split()[1:]]) for line in out if line.startswith(k)] for k in ("context", "target")]
    grad = {k[6:]: v for k, v in load_file(f"{tmp}/gradient.safetensors").items() if k.startswith("opt.m.")}
    return [float(x) for x in out[0].split()], lists, grad


def free(name, x):
    """Without the key third of a qkv bias, whose gradient is rounding alone."""
    return torch.cat([x[:len(x) // 3], x[2 * len(x) // 3:]]) if name.endswith("qkv.bias") else x


ref = fresh(f"{tmp}/ref")
start = load_file(f"{ours}/latest.safetensors")
t = Step({k: v for k, v in start.items() if not k.startswith("opt.")}, 3, 4)
_, x = images(32, 8)
n = t.part["encoder"]["pos_embed"].shape[1]
for k in range(3):     # a few steps in PyTorch alone, so that the optimizer has a state
    order = torch.randperm(n)
    t.step(x, [order[16:]] * 8, [order[:8]] * 8 + [order[8:16]] * 8, 1e-3, 0.05, 0.99)
module = {k: {f"module.{n}": v.detach() for n, v in part.items()} for k, part in t.part.items()}
torch.save({**module, "opt": t.opt.state_dict(), "scaler": None, "epoch": 1, "loss": 0.5, "batch_size": 8, "world_size": 1, "lr": 1e-3}, f"{ref}/jepa-latest.pth.tar")
settings = re.sub("steps = 3", "steps = 4", open(f"{ours}/config.txt").read())
open(f"{ref}/settings.txt", "w").write(re.sub("(?m)^(embed_dim|depth|patch_size|crop_size|mlp_ratio|pred_emb_dim|pred_depth) = .*\n", "", settings))
lines("### The reference's checkpoints", f"{ref}/jepa-latest.pth.tar", f"{ref}/settings.txt", f"{ref}/latest.safetensors")
folder, x = images(32, 4)
with torch.no_grad():
    for e in ("target", "context"):
        want = t.encode(t.part["encoder" if e == "context" else "target_encoder"], x)
        check(f"{e} encoder of the reference's checkpoint", (features(ref, folder, "--tokens", "--encoder", e) - want).abs().max(), 1e-4)
assert "target_encoder encoder predictor optimizer" in run("info", ref)
assert "torch.load" in run("info", f"{ref}/jepa-latest.pth.tar", code=1)
_, x = images(32, 8)
(ours_loss, lr, decay, ema), lists, grad = step(f"{ref}/latest.safetensors", x)
loss = t.step(x, *lists, lr, decay, ema)
check("loss of one further step", abs(loss - ours_loss), 1e-6)
assert grad.keys() == t.grad.keys(), grad.keys() ^ t.grad.keys()
check("its gradients", max((free(n, grad[n]) - free(n, g)).norm() / free(n, g).norm() for n, g in t.grad.items()), 1e-5)
after = load_file(f"{tmp}/after.safetensors")
for part, w in t.part.items():
    check(f"{part} after it", max((free(n, v.detach()) - free(n, after[f"{part}.{n}"])).abs().max() for n, v in w.items()), 4e-5)
lines("and the way back", f"{tmp}/after.safetensors", f"{ref}/back.pth.tar")
back = torch.load(f"{ref}/back.pth.tar", weights_only=True)
assert {k: list(v) for k, v in module.items()} == {k: list(back[k]) for k in module}, "names or their order"
t.opt.load_state_dict(back["opt"] | {"param_groups": t.opt.state_dict()["param_groups"]})
lines("### The reference's checkpoints", f"{ref}/back.pth.tar", f"{ref}/settings.txt", f"{ref}/again.safetensors")
again = load_file(f"{ref}/again.safetensors")
assert again.keys() == after.keys() and all(torch.equal(v, again[k]) for k, v in after.items())
assert safe_open(f"{ref}/again.safetensors", "pt").metadata()["step"] == "4"
print("ok   the way back: weights, moments, names and their order")
assert "resumed at step 3" in run("train", "--data", "data/scenes", "--out", ref, "--resume")
assert safe_open(f"{ref}/latest.safetensors", "pt").metadata()["step"] == "4"
print("ok   train --resume goes on from it")
# ---- other objectives: loss and gradients of a step
for objective, settings in (("generative", ("--mask_mode", "random", "--num_pred_masks", 1, "--pred_mask_scale", "0.75,0.75")),
                         ("generative", ("--num_pred_masks", 2)), ("jepa", ("--mask_mode", "rasterized", "--num_pred_masks", 3)),
                         ("jepa", ("--vicreg", 0.05)),
                         ("joint", ("--vicreg", 0.1, "--pred_depth", 2)), ("joint", ("--pred_depth", 0))):
    run("train", "--data", "data/scenes", "--steps", 1, "--batch_size", 8, "--warmup", 0, *shape,
        "--patch_size", 8, "--min_keep", 1, "--objective", objective, *settings, "--out", fresh(f"{tmp}/{objective}") + "/a")
    path = f"{tmp}/{objective}/a/latest.safetensors"
    x = images(32, 16)[1] if objective == "joint" else images(32, 8)[1]
    t = Step({k: v for k, v in load_file(path).items() if not k.startswith("opt.")}, 3, 8, objective, settings[1] if settings[0] == "--vicreg" else 0)
    (ours_loss, lr, decay, ema), lists, grad = step(path, x)
    loss = t.step(x, *lists, lr, decay, ema)
    check(f"loss of {objective}, {settings[0]} {settings[1]}", abs(loss - ours_loss), 1e-6)
    check("its gradients", max((free(n, grad[n]) - free(n, g)).norm() / free(n, g).norm() for n, g in t.grad.items()), 1e-5)
print(f"{failed} failed")
sys.exit(failed > 0)
