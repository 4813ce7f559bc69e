import copy
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

import data
import gan
from conftest import ROOT, result_of, same_pictures

TINY = ["--width", 4, "--z-dim", 8, "--batch", 8, "--n-critic", 2, "--log-every", 1, "--checkpoint-every", 1, "--samples", 6, "--device", "cpu"]


def train(cli, prepared, out, *more, steps=4):
    return cli("gan", "train", "wgan_gp", "--data", prepared, "--class", "benign", "--steps", steps, "--out", out, *TINY, *more)


# --- networks

@pytest.mark.parametrize("net, parameters", [(gan.wgan_gp_generator(200, 224), 39_473_507), (gan.wgan_gp_critic(224), 33_767_777),
                                             (gan.wgan_gp_critic(64), 2_766_657), (gan.wgan_gp_generator(200, 64), 4_396_867)])
def test_parameter_counts(net, parameters):
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_shapes_and_range():
    images = gan.wgan_gp_generator(8, 4)(torch.randn(3, 8, 1, 1))
    assert images.shape == (3, 3, 64, 64) and images.abs().max() <= 1
    assert gan.wgan_gp_critic(4)(images).shape == (3,)


def test_critic_scores_an_image_without_looking_at_the_others():
    critic, images = gan.wgan_gp_critic(4), torch.rand(5, 3, 64, 64)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())
    assert torch.allclose(critic(images)[2], critic(images[2:3])[0], atol=1e-5)


def test_describe_prints_the_three_tables(cli):
    status, out, _ = cli("gan", "describe", "wgan_gp")
    assert status == 0
    for total in ("39,473,507", "33,767,777", "2,766,657", "25,691,904"):
        assert total in out


# --- the gradient penalty

def test_penalty_of_a_linear_critic_is_known():
    weight = torch.randn(3 * 8 * 8)
    penalty = gan.gradient_penalty(lambda x: x.flatten(1) @ weight, torch.rand(6, 3, 8, 8), torch.rand(6, 3, 8, 8), weight=7.0)
    assert penalty.item() == pytest.approx(7 * (weight.norm().item() - 1) ** 2, rel=1e-5)


def test_penalty_takes_the_norm_of_each_image_over_all_its_values():
    """D(x) = |x|^2 / 2 has gradient x, so each image has its own norm; a norm over channels or over the batch gives another number."""
    real = torch.rand(5, 3, 8, 8) * torch.arange(1, 6).view(5, 1, 1, 1)
    expected = 10 * (real.flatten(1).norm(dim=1) - 1).square().mean()
    assert gan.gradient_penalty(lambda x: x.square().flatten(1).sum(1) / 2, real, real.clone()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_penalty_is_taken_between_real_and_fake(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.25))
    seen = []
    gan.gradient_penalty(lambda x: seen.append(x) or x.flatten(1).sum(1), torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    assert torch.equal(seen[0], torch.full((2, 3, 4, 4), 0.25))


def test_penalty_is_finite_where_the_gradient_is_zero():
    weight = torch.zeros(12, requires_grad=True)
    gan.gradient_penalty(lambda x: x.flatten(1) @ weight, torch.rand(2, 3, 2, 2), torch.rand(2, 3, 2, 2)).backward()
    assert torch.isfinite(weight.grad).all()


# --- steps

def test_a_critic_step_raises_the_gap_and_leaves_the_generator_alone():
    torch.manual_seed(0)
    generator, critic = gan.wgan_gp_generator(8, 4), gan.wgan_gp_critic(4)
    before = copy.deepcopy(dict(generator.named_parameters()))
    optimizer, real = torch.optim.Adam(critic.parameters(), 3e-3, (0.0, 0.9)), torch.rand(8, 3, 64, 64)
    off = torch.autocast("cpu", torch.bfloat16, enabled=False)
    gaps = [gan.critic_step(generator, critic, optimizer, real, 8, 10.0, off) for _ in range(20)]
    assert (gaps[-1][0] - gaps[-1][1]) > 3 * (gaps[0][0] - gaps[0][1]) > 0
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in generator.named_parameters())


def test_a_generator_step_raises_the_score_and_leaves_the_critic_alone():
    torch.manual_seed(0)
    generator, critic = gan.wgan_gp_generator(8, 4), gan.wgan_gp_critic(4)
    before, optimizer = copy.deepcopy(critic.state_dict()), torch.optim.Adam(generator.parameters(), 1e-3, (0.0, 0.9))
    off, z = torch.autocast("cpu", torch.bfloat16, enabled=False), torch.randn(64, 8, 1, 1)
    score = critic(generator(z)).mean().item()
    for _ in range(5):
        gan.generator_step(generator, critic, optimizer, 16, 8, torch.device("cpu"), off)
    assert critic(generator(z)).mean().item() > score
    assert all(torch.equal(before[name], value) for name, value in critic.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in critic.parameters())


# --- averaged weights and sampling

def test_average_takes_weights_and_batchnorm_statistics():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    average = copy.deepcopy(net)
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(1)
    old = copy.deepcopy(average.state_dict())
    gan.update_average(average, net, step=10 ** 6, decay=0.9)
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, old[name] + 0.1, atol=1e-6), name
    assert average[1].num_batches_tracked == 1
    gan.update_average(average, net, step=0, decay=0.9)             # early: almost all new
    assert torch.allclose(average[1].running_mean, old["1.running_mean"] + 0.1 + 0.9 * 0.9, atol=1e-6)


def test_an_image_does_not_depend_on_the_batch_it_is_drawn_in():
    torch.manual_seed(0)
    generator = gan.wgan_gp_generator(8, 4)
    for _ in range(40):                                             # gives BatchNorm its statistics, so that images differ
        generator(torch.randn(32, 8, 1, 1))
    generator.eval()
    together, alone = gan.draw(generator, 9, 8, seed=3, batch=9), gan.draw(generator, 9, 8, seed=3, batch=1)
    assert same_pictures(together, alone, tolerance=1)              # 1 grey level: sums in another order may round differently
    assert same_pictures(together[:4], gan.draw(generator, 4, 8, seed=3), tolerance=1)
    assert not same_pictures(together, gan.draw(generator, 9, 8, seed=4), tolerance=1)


def test_diversity_alarm():
    real = data.built_in(32, 64).images
    assert gan.diversity(real, real) == 1
    assert gan.diversity(np.repeat(real[:1], 32, 0), real) == 0 < gan.COLLAPSE
    assert gan.diversity(real // 4 + 96, real) < gan.COLLAPSE


# --- jobs

def test_the_options_reach_the_training(tmp_path, cli, prepared, monkeypatch):
    """What the command line says is what the optimisers, the penalty and the batches get; real images come in [-1, 1]."""
    adams, weights, reals, steps = [], [], [], []
    adam, penalty, batch = torch.optim.Adam, gan.gradient_penalty, data.Batches.__call__
    monkeypatch.setattr(torch.optim, "Adam", lambda *a: adams.append(a[1:]) or adam(*a))
    monkeypatch.setattr(gan, "gradient_penalty", lambda c, real, f, w: weights.append(w) or reals.append(real) or penalty(c, real, f, w))
    monkeypatch.setattr(data.Batches, "__call__", lambda self, step: steps.append(step) or batch(self, step))
    assert train(cli, prepared, tmp_path / "run", "--penalty", 3, "--lr", 0.002, "--beta1", 0.1)[0] == 0
    assert adams == [(0.002, (0.1, 0.9))] * 2 and weights == [3.0] * 8
    assert steps == list(range(8))                                  # 4 steps of 2 critic updates, each on a new batch
    assert torch.stack(reals).min() < -0.5 and torch.stack(reals).max() > 0.5 and torch.stack(reals).abs().max() <= 1


def test_bf16_leaves_the_penalty_in_float32_and_resumes_exactly(tmp_path, cli, prepared, monkeypatch):
    seen, penalty = [], gan.gradient_penalty
    monkeypatch.setattr(gan, "gradient_penalty", lambda c, r, f, w: penalty(lambda x: seen.append(c(x)) or seen[-1], r, f, w))
    half = ["--precision", "bf16"]
    train(cli, prepared, tmp_path / "once" / "run", *half)
    train(cli, prepared, tmp_path / "parts" / "run", *half, "--stop-after", 3)
    train(cli, prepared, tmp_path / "parts" / "run", *half)
    assert result_of(tmp_path / "once/run") == result_of(tmp_path / "parts/run") and {s.dtype for s in seen} == {torch.float32}


def test_samples_come_from_the_averaged_generator(tmp_path, cli, prepared, monkeypatch):
    seen, update = [], gan.update_average
    monkeypatch.setattr(gan, "update_average", lambda average, net, *rest: seen.append((average, net)) or update(average, net, *rest))
    train(cli, prepared, tmp_path / "run", "--lr", 0.01, steps=12)
    average, net = seen[-1]
    made = data.load(tmp_path / "run/samples.npz").images
    assert same_pictures(made, gan.draw(average, 6, 8, seed=1)) and not same_pictures(made, gan.draw(net.eval(), 6, 8, seed=1), tolerance=1)


def test_two_and_two_steps_are_four_and_the_same_seed_gives_the_same_bytes(tmp_path, cli, prepared):
    for name in ("once", "again"):
        assert train(cli, prepared, tmp_path / name / "run")[0] == 0
    train(cli, prepared, tmp_path / "parts" / "run", "--stop-after", 2)
    assert not (tmp_path / "parts/run/result.json").exists()
    status, out, _ = train(cli, prepared, tmp_path / "parts" / "run")
    assert status == 0 and "going on from step 2" in out
    for name in ("again", "parts"):
        assert result_of(tmp_path / "once/run") == result_of(tmp_path / name / "run")
        assert (tmp_path / "once/run/samples.npz").read_bytes() == (tmp_path / name / "run/samples.npz").read_bytes()
        ours, theirs = (torch.load(tmp_path / which / "run/model.pt", weights_only=True) for which in ("once", name))
        assert all(torch.equal(ours["average"][key], theirs["average"][key]) for key in ours["average"])
    train(cli, prepared, tmp_path / "strict" / "run", "--deterministic")
    torch.use_deterministic_algorithms(False)
    assert result_of(tmp_path / "once/run") == result_of(tmp_path / "strict/run")
    train(cli, prepared, tmp_path / "other" / "run", "--seed", 1)
    assert result_of(tmp_path / "other/run")["curves"] != result_of(tmp_path / "once/run")["curves"]
    assert not (tmp_path / "once/run/checkpoint.pt").exists()


def test_kill_9_and_start_again_gives_the_same_result(tmp_path, cli, prepared):
    train(cli, prepared, tmp_path / "whole" / "run", steps=12)
    options = ["--data", prepared, "--class", "benign", "--steps", "12", "--out", tmp_path / "killed" / "run", *TINY]
    command = [sys.executable, str(ROOT / "gan.py"), "train", "wgan_gp", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="2"))
    end = time.time() + 60
    while not (tmp_path / "killed/run/checkpoint.pt").exists() and time.time() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/run/result.json").exists()
    _, out, _ = train(cli, prepared, tmp_path / "killed" / "run", steps=12)
    assert "going on from step" in out
    assert result_of(tmp_path / "killed/run") == result_of(tmp_path / "whole/run")


def test_a_done_job_is_skipped_and_a_half_done_one_refuses_other_options(tmp_path, cli, prepared, refused):
    train(cli, prepared, tmp_path / "run", "--stop-after", 2)
    refused(["lr 0.0001 -> 0.5", "width 4 -> 6"], "gan", "train", "wgan_gp", "--data", prepared, "--class", "benign", "--steps", 4,
            "--out", tmp_path / "run", *TINY, "--lr", 0.5, "--width", 6)
    train(cli, prepared, tmp_path / "run")
    stamp = (tmp_path / "run/result.json").stat().st_mtime_ns
    assert "done before" in train(cli, prepared, tmp_path / "run")[1] and (tmp_path / "run/result.json").stat().st_mtime_ns == stamp


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, cli, prepared, monkeypatch):
    train(cli, prepared, tmp_path / "run", "--stop-after", 2)
    good = (tmp_path / "run/checkpoint.pt").read_bytes()
    monkeypatch.setattr(gan, "critic_step", lambda *_: torch.full((3,), float("nan")))
    status, _, err = train(cli, prepared, tmp_path / "run")
    assert status == 2 and "not a number by step 3" in err and len(err.strip().splitlines()) == 1
    assert (tmp_path / "run/checkpoint.pt").read_bytes() == good


def test_stopping_between_two_log_points_changes_nothing(tmp_path, cli, prepared):
    coarse = ["--log-every", 3, "--checkpoint-every", 3]
    train(cli, prepared, tmp_path / "once" / "run", *coarse, steps=6)
    train(cli, prepared, tmp_path / "parts" / "run", *coarse, "--stop-after", 2, steps=6)
    train(cli, prepared, tmp_path / "parts" / "run", *coarse, steps=6)
    assert result_of(tmp_path / "once/run") == result_of(tmp_path / "parts/run")


def test_a_network_with_a_nan_does_not_replace_a_good_checkpoint(tmp_path):
    net = nn.Linear(2, 2)
    data.save_checkpoint(tmp_path, dict(net=net), step=1)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        net.weight[0, 0] = float("nan")
    with pytest.raises(data.UserError, match="not a number by step 2"):
        data.save_checkpoint(tmp_path, dict(net=net), step=2)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


def test_the_gan_sees_the_training_part_only_and_says_so(tmp_path, cli, prepared, lesions):
    train(cli, prepared, tmp_path / "run")
    made, benign = data.load(tmp_path / "run/samples.npz"), lesions.part("train").of_class("benign")
    assert made.info["digests"] == sorted(benign.digests()) and made.classes == ["benign"] and len(made) == 6
    assert not set(made.info["digests"]) & set(lesions.part("test").digests())
    assert result_of(tmp_path / "run")["counts"]["benign"] == len(benign)


def test_two_processes_never_share_a_folder(tmp_path, cli, prepared, refused):
    script = f"import data, time; data.open_run({str(tmp_path / 'run')!r}, {{}}); print('in', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "in\n"
    refused(["another process is at work"], "gan", "train", "wgan_gp", "--data", prepared, "--class", "benign", "--out", tmp_path / "run", *TINY)
    other.kill()
    other.wait()
    (tmp_path / "run/config.json").unlink()
    assert train(cli, prepared, tmp_path / "run")[0] == 0           # a killed process leaves no lock behind


def test_samples_do_not_mix_with_older_files(tmp_path, cli, prepared, refused):
    train(cli, prepared, tmp_path / "run")
    assert cli("gan", "sample", tmp_path / "run", "--n", 3, "--out", tmp_path / "tree")[0] == 0
    refused(["tree is not empty"], "gan", "sample", tmp_path / "run", "--n", 3, "--out", tmp_path / "tree")


def test_a_gan_of_an_unsplit_set_warns(tmp_path, cli):
    data.built_in(40, 64).save(tmp_path / "all.npz")
    _, out, err = cli("gan", "train", "wgan_gp", "--data", tmp_path / "all.npz", "--steps", 1, "--out", tmp_path / "run", *TINY)
    assert "has no split" in err and "no --class" in err and "1 steps, 6 samples" in out


def test_more_samples_from_a_finished_run(tmp_path, cli, prepared):
    train(cli, prepared, tmp_path / "run")
    status, _, _ = cli("gan", "sample", tmp_path / "run", "--n", 5, "--seed", 1, "--out", tmp_path / "more.npz")
    drawn, first = data.load(tmp_path / "more.npz"), data.load(tmp_path / "run/samples.npz")
    assert status == 0 and same_pictures(drawn.images, first.images[:5], tolerance=1) and drawn.info["digests"] == first.info["digests"]


def test_bad_gan_options(tmp_path, prepared, refused):
    out = ["--class", "benign", "--out", tmp_path / "run", *TINY]
    refused(["no class 'wart'", "'benign', 'malignant'"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--class", "wart")
    refused(["too few for a batch of 5000"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--batch", 5000)
    refused(["nowhere", "does not exist"], "gan", "train", "wgan_gp", "--data", tmp_path / "nowhere", *out)
    refused(["--steps", "0 is less than 1"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--steps", 0)
    refused(["--lr", "less than 0"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--lr=-1")
    refused(["--width", "invalid int"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--width", "wide")
    refused(["at least 2 images"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--batch", 1)
    refused(["--penalti"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--penalti", 3)
    refused(["--device tpu"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--device", "tpu")
    refused(["64 px"], "gan", "train", "wgan_gp", "--data", prepared, *out, "--size", 32)
    refused(["model.pt"], "gan", "sample", tmp_path / "run", "--out", tmp_path / "more.npz")
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run/model.pt").write_bytes(b"cut off")
    refused(["model.pt", "cannot be read"], "gan", "sample", tmp_path / "run", "--out", tmp_path / "more.npz")
