"""The report shows what is there and no more: what is planted stands in its own cell, nothing else does."""
import re

import numpy as np
import pytest
from PIL import Image

import jobs
import metrics
import page
import report

CLASSES = ["benign", "malignant"]
CONFIG = dict(model="cnn", classes=CLASSES, share="1/2", synthetic=[], shuffle=False, alone=False, augment="none", steps=9)


def finished(out, job, config, **result):
    """A result.json, and the pictures of a job: all of one colour."""
    config = CONFIG | config | dict(seed=int(job[-1]) if job[-2] == "s" else 0)
    result = dict(config=config, seconds=1.5, command="python <b>x", commit="abc1234", metrics={}, counts={}) | result
    jobs.write_json(out / job / "result.json", result)
    for name, colour in (("grid.png", "red"), ("grid_000001.png", "black"), ("grid_000009.png", "blue")):
        Image.new("RGB", (16, 16), colour).save(out / job / name)


def classifier(out, job, right, tests=("real",), generators={}, seeds=3, **config):
    """Classifiers that are right in that share of 400 images, in .1 more of mixed ones; 134 are malignant."""
    truth = (np.arange(400) % 3 == 0).astype(int)
    for seed in range(seeds):
        rows, found = ["test,image,lesion,label,benign,malignant"], {}
        for test in tests:
            share = right + 0.1 * (test == "mixed") + 0.0025 * (seed - 1)
            called = truth == (np.random.default_rng(1).permutation(400) < round(share * 400))
            rows += [f"{test},i{k},{test}{k},{CLASSES[truth[k]]},{1 - score:.1f},{score}"
                     for k, score in enumerate(np.where(called, .9, .1))]
            found[test] = dict(loss=share, confusion=[[81, 2], [3, len(test)]])
        finished(out, f"{job}-s{seed}", config, leaked=0, metrics=found, counts=dict(benign=50, malignant=50), generators=generators,
                 curves=dict(loss=[1, .5], accuracy=[.6, .7], val_loss=[1, .6], val_accuracy=[.5, .75]))
        (out / f"{job}-s{seed}" / "predictions.csv").write_text("\n".join(rows) + "\n")


def gan(out, job, config={}, **measures):
    measures = dict(diversity=.9, distinctness=.8, collapsed=False, fd_8x8_distance=.5, fd_8x8_floor=.25) | measures
    finished(out, job, dict(model="dcgan_cls") | config, metrics=measures, curves=dict(window=2, D=[1, 3], penalty=[9, 9]))


def source(out, study, name):
    counts = dict(train=dict(benign=30, malignant=45), test=dict(benign=7, malignant=8))
    finished(out, f"{study}/data", {}, source=dict(source=name, stand_in=None), counts=counts)


def page_of(out, scale="small", **options):
    jobs.write_json(out / "config.json", dict(scale=scale, data="photos"))
    said = report.write(out, **options)
    return (out / "report.md").read_text(), (out / "report.html").read_text(), said


MINE = dict(diversity=.7, distinctness=.6, collapsed=False, fd_8x8_distance=.1, fd_8x8_floor=.3, closer_to_train=[.9, .61, .95])


def controls(out, real, with_gan, more):
    """Names say nothing: which arm is which stands in config."""
    classifier(out, "controls/a", real)
    classifier(out, "controls/b", more, share="1")
    for number, (name, right) in enumerate(dict(dcgan_cls=with_gan, mine=real - .05).items()):
        of = dict(synthetic=[name], generators={name: MINE if name == "mine" else {}})
        classifier(out, f"controls/c{number}", right, **of)
        classifier(out, f"controls/d{number}", right - .1, shuffle=True, **of)
        classifier(out, f"controls/e{number}", right - .2, alone=True, **of)
    classifier(out, "controls/f", real + .08, augment="classical")


def test_what_is_planted_in_the_controls_is_found_by_config_and_ones_own_generator_is_named_first(tmp_path):
    controls(tmp_path, 0.70, 0.75, 0.80)
    source(tmp_path, "controls", "drawn lesions (seed 3)")
    gan(tmp_path, "controls/g-s0", dict(share="1/2"), diversity=.5)
    gan(tmp_path, "controls/g-s1", dict(share="1/2"), diversity=.6, distinctness=.1, collapsed=True)
    (x, low, high), generated, more = report.worth_of(report.Results(tmp_path), "cnn", ["dcgan_cls"])
    assert x == pytest.approx(.5) and low < .5 < high and generated[0] == pytest.approx(.05) and more[0] == pytest.approx(.1)
    markdown, _, said = page_of(tmp_path)
    mine, ours = said.split("But mine: COPIES its training images. ")
    assert mine.startswith("Here images of mine did not help: one was worth -0.50 of a further real drawn lesion (95 % interval -")
    assert "-5.0 points [" in mine and ours.startswith("Here GAN images helped: one was worth 0.50") and "by +10.0 points [" in ours
    rows = {row.split(" | ")[0]: row for row in markdown.replace("| ", "", 1).splitlines() if " | " in row}
    rows = {words.removeprefix("| "): row for words, row in rows.items()}
    gains = {"as many further real images": "+10.0", "classical augmentation": "+8.0", "DCGAN (001) images": "+5.0", "mine alone": "-25.0",
             "DCGAN (001), labels shuffled": "-5.0", "DCGAN (001) alone": "-15.0", "mine images": "-5.0", "mine, labels shuffled": "-15.0"}
    assert all(f"| {gain} points [" in rows[words] for words, gain in gains.items()) and "| 100 real images" in rows["added"]
    assert "70.0 [" in rows["nothing: accuracy in %"] and "a GAN COLLAPSED" in rows["DCGAN (001) alone"] and "COLL" not in rows["mine alone"]
    assert "| 9 | 0.60 | 0.10 | 0.500 (0.250) | - | COLLAPSED" in rows["g"] and "0.90 [0.61, 0.95] | COPIES" in rows["mine"]
    assert list(rows).index("mine images") < list(rows).index("DCGAN (001) images") and markdown.index("charts/001.svg") < 3000
    chart = (tmp_path / "charts/001.svg").read_text()
    assert chart.index(">mine<") < chart.index(">DCGAN (001)<") and '<circle cx="173"' in chart and '<circle cx="259"' in chart


def test_no_worth_without_a_gain_from_real_images_and_no_claim_of_copies_without_cause(tmp_path):
    controls(tmp_path, 0.70, 0.75, 0.70)
    assert "cannot be told here: as many further real photographs" in page_of(tmp_path)[2]
    assert report.state_of(MINE | dict(closer_to_train=[.7, .59, .8])) == "alive"
    assert report.state_of(MINE | dict(collapsed=True)) == "COPIES its training images; COLLAPSED: its rows count as failed"


@pytest.mark.parametrize("printed, gain, p, expected", [
    ("+10.1 points", [.10, .05, .15, .01], .01, "reproduced"), ("+10.1 points", [.03, .01, .05, .01], .01, "same direction"),
    ("+10.1 points", [.01, -.02, .04, .5], .5, "not reproduced"), ("+10.1 points", [.05, -.05, .15, .3], .3, "cannot"),
    ("+10.1 points", [-.1, -.2, -.05, .01], .01, "not reproduced"), ("+10.1 points", [.1, .05, .15, None], None, "cannot"),
    ("-1.0 points", [-.01, -.02, -.001, .01], .01, "reproduced"), ("+10.1 points", [.1, .05, .15, .02], .06, "cannot"),
    ("no effect (-1 to 1)", [.001, -.01, .012, .9], .9, "reproduced"), ("no effect", [.05, .03, .07, .01], .01, "not reproduced"),
    ("no effect", [.01, -.03, .02, .5], .5, "cannot"), ("no effect", [.01, -.02, .03, .5], .5, "cannot"),
    ("no effect", [.05, .03, .07, .01], .06, "cannot"), ("level 93.5 %", [.93, .92, .95, None], None, "reproduced"),
    ("level 93.5 %", [.86, .84, .88, None], None, "not reproduced"), ("better", [.05, .02, .08, .01], .01, "same direction"),
    ("better", [-.05, -.08, -.02, .01], .01, "not reproduced"), ("better", [.01, -.02, .04, .5], .5, "cannot"),
    ("+1.0 points", None, None, "cannot be tested here: not run"), ("+1.0 points", [.1, None, None, None], None, "cannot")])
def test_verdicts(printed, gain, p, expected):
    assert report.verdict(printed, gain, p).startswith(expected)


def test_claims_stand_on_the_first_screen_with_their_signs_protocols_and_one_correction(tmp_path, monkeypatch):
    for number, net in enumerate(("cnn", "mobilenet", "resnet18")):
        classifier(tmp_path, f"wgan_gp/{net}_real", .70)
        classifier(tmp_path, f"wgan_gp/{net}_hybrid", .71 + .045 * number, tests=("real", "mixed"))
    markdown, _, _ = page_of(tmp_path)
    first, paper = markdown.split("### Claims")
    assert "| paper | claim | printed | ours, clean | verdict |" in first and "| 003 |" not in first and "rehearsal" not in first
    row = next(line for line in first.splitlines() if "help ResNet-18" in line)
    assert row.startswith("| 000 | GAN images help ResNet-18 | +10.1 points | +10.0 points [") and row.endswith("| reproduced |")
    assert re.search(r"help ResNet-18 \| \+10.1 points \| \+10.0 points \[.*\] \| \+20.0 points \| reproduced", paper)
    quick = page_of(tmp_path, "quick")[0]
    assert "reproduced" not in quick and "verdict" not in quick and "rehearsal" in quick.split("### Claims")[0]
    results = report.Results(tmp_path)
    raw = [results.gain("wgan_gp", f"{net}_real", f"{net}_hybrid")[3] for net in ("cnn", "mobilenet", "resnet18")]
    raw.append(results.gain("wgan_gp", "cnn_hybrid resnet18_hybrid", "mobilenet_hybrid")[3])
    monkeypatch.setattr(report, "verdict", lambda printed, gain, p: p)
    assert [row["verdict"] for row in report.claims_of(results, "wgan_gp", None)] == metrics.holm(raw) != raw
    assert results.gain("wgan_gp", "cnn_real", "cnn_*")[0] == pytest.approx(.005)        # the mean of the jobs that fit
    assert results.gain("wgan_gp", "cnn_real vgg", "cnn_hybrid") is None
    classifier(tmp_path, "dcgan_cls/base", .93)
    level = report.claims_of(report.Results(tmp_path), "dcgan_cls", None)
    assert any(row["ours, clean"].startswith("93.0 [") for row in level)


@pytest.mark.parametrize("job, measure, row, expected", [
    ("net", "accuracy", "", "0.700 [0.6"), ("net", "accuracy %", "", "70.0 [6"), ("net@mixed", "accuracy", "", "0.800 ["),
    ("net@other", "accuracy", "", "no other test"), ("late", "accuracy", "", "not run: late"), ("net", "loss", "", "0.700"),
    ("net@mixed", "loss", "", "0.800"), ("net", "validation accuracy", "", "0.750"), ("net", "called malignant", "benign", "2"),
    ("net", "called benign", "malignant", "3"), ("net@mixed", "called malignant", "malignant", "5"), ("net", "auc", "", "0.689"),
    ("net", "recall malignant", "x", "0.657"), ("net", "recall", "malignant", "0.657"), ("net", "precision", "benign", "0.8"),
    ("net", "f1 MEL", "", "no f1 MEL here"), ("data", "images train", "malignant", "45"), ("data", "images test", "Sum", "15"),
    ("data", "images val", "benign", "0"), ("gan", "resemblance", "", "0.30"), ("gan", "diversity", "", "0.90"),
    ("score", "distance fake", "", "FID 1.50 ± 0.25, noise floor 0.50, KID 0.001"), ("score", "distance more", "", "not scored")])
def test_each_cell_has_its_own_value(tmp_path_factory, job, measure, row, expected, made=[]):
    if not made:
        made.append(tmp_path_factory.mktemp("cells"))
        classifier(made[0], "s/net", .70, tests=("real", "mixed"))
        source(made[0], "s", "photographs")
        for seed, value in enumerate((.2, .4)):
            gan(made[0], f"s/gan-s{seed}", resemblance=value)
        row_of_set = dict(set="fake", distance=1.5, spread=.25, floor=.5, kid=.001)
        finished(made[0], "s/score", {}, net="FID", rows=[row_of_set])
    assert report.value(report.Results(made[0]), "s", job, measure, row).startswith(expected)


def test_tables_have_ours_beside_or_below_the_printed_values_by_protocol(tmp_path):
    classifier(tmp_path, "s/clean", .70)
    classifier(tmp_path, "s/leaky", .80)
    source(tmp_path, "s", "photographs")
    tables = dict(net=[["Conv2d", [4, 8, 8], 1234], ["Flatten", [], 0], ["total", [], 1300]], other=[["total", [], 7]])
    finished(tmp_path, "s/networks", {}, tables=tables)
    results, header = report.Results(tmp_path), {"class": "malignant", "as printed": "leaky", "clean": "clean"}
    below = report.ours_below(results, "s", "class", [header | {"loss": ".5"}, header | {"loss": "not printed", "clean": "-"}])
    assert [list(row.values()) for row in below] == [["malignant", "printed", ".5"], ["malignant", "ours, as printed", "0.800"],
                                                     ["malignant", "ours, clean", "0.700"], ["malignant", "ours, as printed", "0.800"]]
    [beside] = report.ours_beside(results, "s", "class", [header | {"measure": "loss", "value": ".6"}])
    assert beside == {"class": "malignant", "measure": "loss", "printed": ".6", "ours, as printed": "0.800", "ours, clean": "0.700"}
    rows = [dict(layer="0 Conv", job="networks@net", output="4x8x8", parameters="1,234"), dict(layer="total", job="", output="-", parameters="-")]
    assert [list(row.values()) for row in report.layers(results, "s", rows)] == [
        ["0 Conv", "4x8x8", "4x8x8", "1,234", "1,234"], ["total", "-", "-", "-", "1,300"]]
    assert report.layers(results, "s", [rows[0] | dict(job="late@net")])[0]["ours"] == "not run: late"
    assert report.counts(results, "s", "clean", "real")[0] == {"clean": "benign", "train real": 30, "train from GANs": 20, "test": 7}
    assert report.confusion(results, "s", "clean", "real")[1] == {"clean": "malignant", "called benign": 3, "called malignant": 4}
    assert [name for name, _ in report.pictures_of(results, "steps", ["s/networks"])] == ["networks, step 1", "networks, step 9"]


def test_a_line_goes_where_its_numbers_are():
    chart = page.line_chart("a <title>", "x", [("up", [1, 3], [0, 10]), ("flat", [1, 2], [5, 5])])
    assert 'points="50.0,180.0 344.0,30.0"' in chart and 'points="50.0,105.0 197.0,105.0"' in chart and "a &lt;title&gt;" in chart
    assert page.ticks(0, 10).tolist() == [0, 5, 10] or len(page.ticks(0, 10)) in range(2, 6)


@pytest.mark.parametrize("damage", [
    "{", '{"config": 3}', "[]", dict(metrics=3), dict(seconds="a"), dict(source=3), dict(config={}), dict(metrics=dict(diversity=1)),
    dict(metrics=dict(late={})), dict(generators=dict(mine=dict(diversity=1))), "predictions.csv"])
def test_a_broken_or_foreign_file_is_named_and_skipped(tmp_path, damage):
    for job in ("controls/a", "controls/broken"):
        classifier(tmp_path, job, .7, seeds=1)
    file = tmp_path / "controls/broken-s0/result.json"
    if damage == "predictions.csv":
        file.with_name(damage).write_text("test,image\nreal")
    elif isinstance(damage, str):
        file.write_text(damage)
    else:
        jobs.write_json(file, jobs.read_json(file) | damage)
    markdown, html, _ = page_of(tmp_path)
    assert "Left out, damaged: controls/broken-s0: " in markdown and "| controls/a-s0 |" in markdown and "<b>x" not in html


def test_every_string_is_escaped_and_what_breaks_a_section_does_not_break_the_page(tmp_path):
    evil = "<script>alert('`*|')</script>"
    classifier(tmp_path, "controls/a", .7, seeds=1)
    classifier(tmp_path, "controls/b", .7, seeds=1, synthetic=[evil], generators={evil: MINE})
    source(tmp_path, "controls", evil)
    file = tmp_path / "controls/data/result.json"
    jobs.write_json(file, jobs.read_json(file) | dict(counts=dict(train=3), command=evil))
    markdown, html, _ = page_of(tmp_path)
    assert "<script" not in html and "Left out, damaged: AttributeError" in markdown and "## How this was made" in markdown
    for block, expected in (("### a *b* `c<d`", "<h3>a <i>b</i> <code>c&lt;d</code></h3>"), ("- **a**\n- b", "<ul><li><b>a</b></li><li>b</li></ul>"),
                            ("| a | b |\n| --- | --- |\n| 1 | 2 |", "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>")):
        assert expected in page.to_html(block, tmp_path)
    with pytest.raises(jobs.UserError, match="run_all.sh"):
        report.write(tmp_path / "nothing")


@pytest.mark.parametrize("origin, photographs", [("ham10000 for kaggle", True), ("drawn lesions (seed 0)", False), ("/x/drawn lesions", True)])
def test_docs_hold_no_photograph_and_no_path_and_name_the_licence(tmp_path, origin, photographs):
    source(tmp_path, "acgan_cyclegan", origin)
    gan(tmp_path, "acgan_cyclegan/acgan")
    gan(tmp_path, "acgan_cyclegan/cycle_AK", dict(source="hash"))
    classifier(tmp_path, "acgan_cyclegan/isic0", .7, seeds=1)
    (tmp_path / "acgan_cyclegan/isic0-s0/predictions.csv").unlink()
    page_of(tmp_path, docs=tmp_path / "docs")
    docs = tmp_path / "docs/small"
    text = docs.with_suffix(".md").read_text()
    pictures = {file.name: Image.open(file).getpixel((0, 0)) for file in docs.glob("*.jpg")}
    assert ("acgan_cyclegan-data-grid.jpg" in pictures) != photographs and pictures["acgan_cyclegan-acgan-grid.jpg"][0] > 200
    assert pictures["acgan_cyclegan-cycle_AK-grid.jpg"][2] > 200        # without the photographs that it translated
    assert str(tmp_path) not in text and "DIR/" in text and not re.search(r"(?<![\w./:])/\w+/", text) and "python" not in text
    assert ("learned HAM10000, CC BY-NC 4.0" in text) == ("ham" in origin) and "--scale small --data DIR`; commit abc1234;" in text
    for name in re.findall(r"\]\(small/(.*)\)", text):
        assert (docs / name).exists()
    assert "| acgan_cyclegan |" in text and "| 3 | 4 |" in text
