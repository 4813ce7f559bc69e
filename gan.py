"""gan.py: the generators and discriminators of the papers, their losses, one training loop per family, sampling.

    python gan.py describe wgan_gp                                     the layer tables with parameter counts
    python gan.py train wgan_gp --data runs/data --class benign --out runs/gan_benign --samples 879
    python gan.py sample runs/gan_benign --n 100 --out more.npz        more images from a finished run

`train wgan_gp --help` lists every hyper-parameter with its source. A run that was cut off goes on when its command is
given again. The images are drawn from averaged weights, in eval mode, so image number i is the same in any batch.
"""
import copy
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.utils import make_grid

import data
import metrics
from data import UserError, scaled

# Every hyper-parameter of a model and where it comes from. Each is an option of `train MODEL`.
RECIPES = {
    "wgan_gp": dict(                                    # paper 000: Goren & Cinarer
        z_dim=(200, "Table 3: 200 x 1792 x 16 weights + 1792 biases = 5,736,192"),
        width=(224, "Tables 2 and 3: maps of the critic's first and the generator's last hidden layer (Table 1: 64)"),
        batch=(32, "section II.K"),
        epochs=(1000.0, 'section II.K, "iterations"; passes of the critic over the real images'),
        lr=(1e-4, "not stated; WGAN-GP paper"),
        beta1=(0.0, "not stated; WGAN-GP paper"),
        beta2=(0.9, "not stated; WGAN-GP paper"),
        penalty=(10.0, "not stated; lambda of the WGAN-GP paper"),
        n_critic=(5, "not stated; critic steps per generator step, WGAN-GP paper"),
        average=(0.999, "ours: decay of the averaged generator that draws the samples")),
}
COLLAPSE = 0.35             # alarm: samples differ from each other less than this fraction of what real images do


# ---------------------------------------------------------------------------------------------------------------------
# WGAN-GP, paper 000, 64 px. Weight init is not stated: PyTorch's default.

def wgan_gp_generator(z_dim=200, width=224):
    """Table 3: 39,473,507 parameters. z (n, z_dim, 1, 1) -> image (n, 3, 64, 64) in [-1, 1].

    Every layer has a bias. ReLU as in the table (the text says LeakyReLU).
    """
    layers, maps = [], z_dim
    for wide, stride, pad in ((8 * width, 1, 0), (4 * width, 2, 1), (2 * width, 2, 1), (width, 2, 1)):
        layers += [nn.ConvTranspose2d(maps, wide, 4, stride, pad), nn.BatchNorm2d(wide), nn.ReLU()]
        maps = wide                                                     # 4, 8, 16, 32 px
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())      # (n, 3, 64, 64)


def wgan_gp_critic(width=224):
    """Table 2 (width 224): 33,767,777 parameters; Table 1 (width 64): 2,766,657. Image (n, 3, 64, 64) -> score (n,).

    InstanceNorm as in the tables (the text says BatchNorm, which would tie the images of a batch together and make a
    penalty per image meaningless). Table 1 prints its first row without the bias that all its other rows have.
    """
    layers, maps = [], 3
    for wide in (width, 2 * width, 4 * width, 8 * width):               # 32, 16, 8, 4 px
        layers += [nn.Conv2d(maps, wide, 4, 2, 1), nn.InstanceNorm2d(wide, affine=True), nn.LeakyReLU(0.2)]
        maps = wide
    return nn.Sequential(*layers, nn.Conv2d(maps, 1, 4, 1, 0), nn.Flatten(0))            # (n,)


def gradient_penalty(critic, real, fake, weight=10.0):
    """weight * mean over images of (|grad_x critic(x)| - 1)^2, at x between real and fake (WGAN-GP paper, eq. 3).

    The norm runs over all of channels, height and width of one image. float32; the small constant under the root
    keeps the derivative finite where the gradient is zero.
    """
    alpha = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
    gradient, = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
    return weight * (norm - 1).square().mean()


def critic_step(generator, critic, optimizer, real, z_dim, weight, autocast):
    """One critic update on a batch of real images. Returns (D(x), D(G(z)), penalty), on the device."""
    with torch.no_grad(), autocast:                                     # the generator is not trained here
        fake = generator(torch.randn(len(real), z_dim, 1, 1, device=real.device))
    fake = fake.float()
    with autocast:
        score = critic(torch.cat([real, fake])).float()                 # one pass: the critic has no BatchNorm
    on_real, on_fake = score[:len(real)].mean(), score[len(real):].mean()
    penalty = gradient_penalty(critic, real, fake, weight)              # outside autocast: float32
    optimizer.zero_grad(set_to_none=True)
    (on_fake - on_real + penalty).backward()
    optimizer.step()
    return torch.stack([on_real, on_fake, penalty]).detach()


def generator_step(generator, critic, optimizer, n, z_dim, device, autocast):
    """One generator update: raise the critic's score of the generator's images."""
    critic.requires_grad_(False)                                        # saves its weight gradients
    with autocast:
        loss = -critic(generator(torch.randn(n, z_dim, 1, 1, device=device))).float().mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    critic.requires_grad_(True)


# ---------------------------------------------------------------------------------------------------------------------
# What all families share: averaged weights, sampling, pictures

@torch.no_grad()
def update_average(average, net, step, decay):
    """Exponential moving average of the weights AND of BatchNorm's running statistics, which must belong together.

    The decay rises from 0.1 to its full value, so that a short run does not drag its random start along.
    """
    keep = min(decay, (1 + step) / (10 + step))
    for mean, new in zip(average.state_dict().values(), net.state_dict().values()):
        if mean.is_floating_point():
            mean.lerp_(new, 1 - keep)
        else:
            mean.copy_(new)


@torch.no_grad()
def draw(generator, n, z_dim, seed, batch=64):
    """n images of a generator in eval mode: uint8 (n, h, w, 3). The noise of image i depends on (seed, i) alone."""
    device = next(generator.parameters()).device
    noise = np.random.default_rng(seed).standard_normal((n, z_dim, 1, 1), np.float32)   # torch.randn's end depends on n
    images = torch.cat([generator(z.to(device)).cpu() for z in torch.from_numpy(noise).split(batch)])
    return images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()


def diversity(images, real):
    """Mean pixel distance between two samples over that between two real images: near 0 means collapsed."""
    apart = [torch.pdist(torch.from_numpy(x).flatten(1).float()).mean().item() for x in (images, real)]
    return apart[0] / apart[1]


def save_grid(path, images, columns=8):
    grid = make_grid(torch.from_numpy(images).permute(0, 3, 1, 2), nrow=columns, padding=1)
    with data.replacing(path) as file:
        Image.fromarray(grid.permute(1, 2, 0).numpy()).save(file, "PNG")


def layer_table(net, shape):
    """(layer, output shape, parameters) of each layer for one input of this shape; costs no memory (meta tensors)."""
    rows, x = [], torch.empty(1, *shape, device="meta")
    for number, layer in enumerate(net.to("meta")):
        x = layer(x)
        rows.append((f"{type(layer).__name__}-{number}", list(x.shape[1:]), sum(p.numel() for p in layer.parameters())))
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Training

def train_wgan_gp(args):
    """One WGAN-GP on one class. A step is n_critic critic updates and one of the generator."""
    out, device, begun = Path(args.out), data.start_device(args), time.time()
    images = training_images(args)
    batches = data.Batches(images, args.batch, args.seed, device)
    steps = args.steps or math.ceil(args.epochs * batches.per_epoch / args.n_critic)
    config = {key: getattr(args, key) for key in RECIPES[args.model] if key != "epochs"}      # steps stands for epochs
    config |= dict(model=args.model, of_class=args.of_class, steps=steps, seed=args.seed, samples=args.samples,
                   precision=args.precision, log_every=args.log_every, data=images.fingerprint())
    if data.open_run(out, config):
        return

    generator = wgan_gp_generator(args.z_dim, args.width).to(device)
    critic = wgan_gp_critic(args.width).to(device)
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    optimizer_g, optimizer_c = (torch.optim.Adam(net.parameters(), args.lr, (args.beta1, args.beta2))
                                for net in (generator, critic))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")
    parts = dict(generator=generator, critic=critic, average=average, optimizer_g=optimizer_g, optimizer_c=optimizer_c)
    saved = data.load_checkpoint(out, parts)
    first, spent = saved.get("step", 0), saved.get("seconds", 0.0)
    log = Log(out, steps, dict(d_real="D(x)", d_fake="D(G(z))", penalty="penalty"), images.images[:64], saved, device)

    last = min(steps, args.stop_after or steps)
    for step in range(first, last):
        for k in range(args.n_critic):
            real = scaled(batches(step * args.n_critic + k)[0])
            stats = critic_step(generator, critic, optimizer_c, real, args.z_dim, args.penalty, autocast)
        generator_step(generator, critic, optimizer_g, args.batch, args.z_dim, device, autocast)
        update_average(average, generator, step, args.average)
        log.history[step] = stats

        done = step + 1
        if done % args.log_every == 0 or done == steps:                 # only here the loop waits for the device
            log(done, args.log_every, draw(average, 64, args.z_dim, seed=args.seed))
        if done % args.checkpoint_every == 0 or done == last < steps:
            data.save_checkpoint(out, parts, step=done, seconds=spent + time.time() - begun, **log.state(done))
    if last < steps:
        return print(f"{out}: stopped after step {last} as asked")

    data.check_finite(out, parts, steps)
    data.save_model(out, config, average=average.state_dict(), critic=critic.state_dict())
    save_grid(out / "grid.png", draw(average, 64, args.z_dim, seed=args.seed))
    made = sample_set(out, config, average, args.samples, args.seed + 1, sorted(images.digests()))
    made.save(out / "samples.npz")
    result = log.result()
    if len(images) >= 4 and len(made) >= 2:
        real, fake = (metrics.colour_features(some.images) for some in (images, made))
        result["metrics"].update(zip(("fd_8x8", "fd_8x8_floor", "fd_8x8_n"), metrics.distance_with_floor(real, fake)))
    data.finish_run(out, config, spent + time.time() - begun, device, counts=images.counts(), data=config["data"],
                    steps=steps, images_seen=steps * args.n_critic * args.batch, **result)
    print(f"{out}: {steps} steps, {len(made)} samples, diversity {result['metrics']['diversity']:.2f}; see {out}/grid.png")


class Log:
    """A GAN's record: statistics of every step, kept on the device; grids, diversity and alarms at log points.

    names: {key in result.json: name in the log line} of the statistics; real: some real images, to compare diversity.
    """

    def __init__(self, out, steps, names, real, saved, device):
        self.out, self.steps, self.names, self.real = out, steps, names, real
        self.history = torch.zeros(steps, len(names), device=device)
        self.history[:saved.get("step", 0)] = saved.get("history", 0)
        self.diversity = saved.get("diversity", [])                     # [step, diversity] at each log point
        self.progress = data.Progress(out.name, steps, saved.get("step", 0))

    def __call__(self, done, every, samples):
        means = dict(zip(self.names.values(), self.history[max(0, done - every):done].mean(0).tolist()))
        data.check_finite(self.out, {}, done, *means.values())
        spread = diversity(samples, self.real)
        self.diversity.append([done, spread])
        words = [f"{name} {value:.2f}" for name, value in dict(means, diversity=spread).items()]
        self.progress(done, "  ".join(words) + ("  COLLAPSED" if spread < COLLAPSE else ""))
        if done * 10 // self.steps > (done - every) * 10 // self.steps:     # ten grids in all, whatever the length
            save_grid(self.out / f"grid_{done:06d}.png", samples)

    def state(self, done):
        return dict(history=self.history[:done], diversity=self.diversity)

    def result(self):
        """The curves, averaged over windows so that there are at most about 200 points, and the last values."""
        window = max(1, self.steps // 200)
        curves = self.history[:self.steps // window * window].view(-1, window, len(self.names)).mean(1).T.tolist()
        last = dict(zip(self.names, (curve[-1] for curve in curves)), diversity=self.diversity[-1][1])
        return dict(metrics=dict(last, collapsed=last["diversity"] < COLLAPSE),
                    curves=dict(zip(self.names, curves), window=window, diversity=self.diversity))


def training_images(args):
    """The training part of --data (all of it where nothing is split), of one class if --class is given."""
    if args.size != 64:
        raise UserError(f"{args.model} makes and judges images of 64 px, not {args.size}: leave --size at 64")
    images = data.load(args.data, args.size)
    if (images.split != "").any():
        images = images.part("train")
    else:
        print(f"{args.data} has no split: this GAN sees every image, so no classifier can be tested on them "
              "(`python data.py prepare` makes a split)", file=sys.stderr)
    if not args.of_class and len(images.classes) > 1:
        print("no --class: one GAN for all classes, whose samples have no label", file=sys.stderr)
    return images.of_class(args.of_class) if args.of_class else images


def sample_set(out, config, generator, n, seed, digests):
    """n images as an image set that carries its run and the digests of the images that its GAN was trained on."""
    pictures = draw(generator, n, config["z_dim"], seed)
    names = np.array([f"{out.name}/{seed}/{k:05d}" for k in range(n)])
    info = dict(source=f"{config['model']} {out.name}", run=config, sample_seed=seed, digests=digests)
    classes = [config["of_class"] or "unlabelled"]
    return data.ImageSet(pictures, np.zeros(n, np.int64), classes, ids=names, groups=names, info=info)


def sample(args):
    run, (saved, config) = Path(args.run), data.load_model(args.run, RECIPES)
    generator = wgan_gp_generator(config["z_dim"], config["width"]).eval()
    generator.load_state_dict(saved["average"])
    made = sample_set(run, config, generator, args.n, args.seed, data.load(run / "samples.npz").info["digests"])
    made.save(args.out)
    print(f"{args.out}: {args.n} images")


def describe(args):
    """Tables 1-3 of paper 000: each network at the 64 px that the generator makes."""
    z_dim, width = args.z_dim, args.width
    generator = wgan_gp_generator(z_dim, width)
    tables = {"Table 1, critic, width 64": layer_table(wgan_gp_critic(64), (3, 64, 64)),
              f"Table 2, discriminator, width {width}": layer_table(wgan_gp_critic(width), (3, 64, 64)),
              f"Table 3, generator, width {width}, z {z_dim}": layer_table(generator, (z_dim, 1, 1))}
    for title, rows in tables.items():
        print(title)
        for name, shape, count in rows:
            print(f"    {name:22}{' x '.join(map(str, shape)):>16}{count:>14,}")
        print(f"    {'total':38}{sum(row[2] for row in rows):>14,}\n")
    config = dict(command="describe", model=args.model, z_dim=z_dim, width=width)
    if args.out and not data.open_run(args.out, config):
        data.finish_run(args.out, config, 0.0, "cpu", tables=tables)


# ---------------------------------------------------------------------------------------------------------------------
# Command line

def add_train_options(p, recipe):
    count = data.at_least(1)
    p.add_argument("--data", required=True, help="image set (.npz), job folder, class tree or zip")
    p.add_argument("--class", dest="of_class", help="train on this class alone")
    p.add_argument("--samples", type=count, default=64, help="images to draw at the end (default %(default)s)")
    p.add_argument("--log-every", type=count, default=50, help="steps between log lines (default %(default)s)")
    p.add_argument("--checkpoint-every", type=count, default=200, help="steps between checkpoints (%(default)s)")
    data.add_run_options(p, recipe)


def main():
    parser = data.Parser(prog="gan.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, purpose in (("train", "train a GAN and draw samples"), ("describe", "print its layer tables")):
        models = commands.add_parser(command, help=purpose).add_subparsers(dest="model", required=True)
        for model, recipe in RECIPES.items():
            p = models.add_parser(model)
            if command == "train":
                add_train_options(p, recipe)
                continue
            p.add_argument("--width", type=data.at_least(1), default=recipe["width"][0], help="default %(default)s")
            p.add_argument("--z-dim", type=data.at_least(1), default=recipe["z_dim"][0], help="default %(default)s")
            p.add_argument("--out", help="folder for a result.json with the tables")
    p = commands.add_parser("sample", help="draw more images from a finished run")
    p.add_argument("run")
    p.add_argument("--n", type=data.at_least(1), default=64, help="number of images (default %(default)s)")
    p.add_argument("--seed", type=data.at_least(0), default=1000, help="of the noise (default %(default)s)")
    p.add_argument("--out", required=True, help="a file ending in .npz, or a folder for a tree of PNG")
    args = parser.parse_args()
    {"train": train_wgan_gp, "sample": sample, "describe": describe}[args.command](args)


if __name__ == "__main__":
    data.run_cli(main)
