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
CONFIG = dict(model="cnn", classes=CLASSES, share="1/2", synthetic=[], shuffle=False, alone=False,
              augment="none", steps=9)
GAN = dict(diversity=.9, distinctness=.8, collapsed=False, fd_8x8_distance=.5, fd_8x8_floor=.25)
MINE = GAN | dict(closer_to_train=[.9, .61, .95])
PICTURES = {"grid.png": "red", "grid_000001.png": "black", "grid_000009.png": "blue"}


def finished(out, job, config={}, **result):
    """A result.json, and the pictures of a job: all of one colour."""
    seed = int(job[-1]) if job[-2] == "s" else 0
    empty = dict(seconds=1.5, command="python x", commit="abc1234", metrics={}, counts={}, device="a GPU")
    result = dict(config=CONFIG | config | dict(seed=seed)) | empty | result
    jobs.write_json(out / job / "result.json", result)
    for name, colour in PICTURES.items():
        Image.new("RGB", (16, 16), colour).save(out / job / name)


def classifier(out, job, right, tests=("real",), generators={}, seeds=3, **config):
    """Right in that share of 400 images, in .1 more of mixed ones; 134 of them are malignant."""
    truth = (np.arange(400) % 3 == 0).astype(int)
    for seed in range(seeds):
        rows, found = ["test,image,lesion,label,benign,malignant"], {}
        for test in tests:
            share = right + 0.1 * (test == "mixed") + 0.0025 * (seed - 1)
            correct = np.random.default_rng(1).permutation(400) < round(share * 400)
            for k, score in enumerate(np.where(truth == correct, .9, .1)):
                rows.append(f"{test},i{k},{test}{k},{CLASSES[truth[k]]},{1 - score:.1f},{score}")
            found[test] = dict(loss=share, confusion=[[81, 2], [3, len(test)]])
        curves = dict(loss=[1, .5], accuracy=[.6, .7], val_loss=[1, .6], val_accuracy=[.5, .75])
        command = " ".join(["python x"] + [f"--synthetic y/{name}-s{seed}" for name in config.get("synthetic", [])])
        finished(out, f"{job}-s{seed}", config, command=command, leaked=0, metrics=found, curves=curves,
                 counts=dict(benign=50, malignant=50), generators=generators)
        (out / f"{job}-s{seed}" / "predictions.csv").write_text("\n".join(rows) + "\n")


def gan(out, job, config={}, **measures):
    config = dict(model="dcgan_cls") | config
    finished(out, job, config, metrics=GAN | measures, curves=dict(window=2, D=[1, 3], penalty=[9, 9]))


def source(out, study, name):
    counts = dict(train=dict(benign=30, malignant=45), test=dict(benign=7, malignant=8))
    finished(out, f"{study}/data", source=dict(source=name, stand_in=None), counts=counts)


def page_of(out, scale="small", **options):
    jobs.write_json(out / "config.json", dict(scale=scale, data="photos"))
    said = report.write(out, **options)
    return (out / "report.md").read_text(), (out / "report.html").read_text(), said


def controls(out, real, with_gan, more):
    """Names say nothing: which arm is which stands in config."""
    classifier(out, "controls/a", real)
    classifier(out, "controls/b", more, share="1")
    classifier(out, "controls/f", real + .08, augment="classical")
    for name, right, measures in (("dcgan_cls", with_gan, {}), ("mine", real - .05, MINE)):
        of = dict(synthetic=[name], generators={name: measures})
        classifier(out, f"controls/c_{name}", right, **of)
        classifier(out, f"controls/d_{name}", right - .1, shuffle=True, **of)
        classifier(out, f"controls/e_{name}", right - .2, alone=True, **of)


GAINS = """
| nothing: accuracy in % | 70.0 [
| as many further real images | +10.0 points [
| classical augmentation | +8.0 points [
| mine images | -5.0 points [
| mine, labels shuffled | -15.0 points [
| mine alone | -25.0 points [
| DCGAN (001) images | +5.0 points [
| DCGAN (001), labels shuffled | -5.0 points [
| DCGAN (001) alone | -15.0 points ["""


def test_what_is_planted_in_the_controls_is_found_and_ones_own_generator_is_named_first(tmp_path):
    controls(tmp_path, 0.70, 0.75, 0.80)
    source(tmp_path, "controls", "drawn lesions (seed 3)")
    for seed, diversity in enumerate((.7, .5, .6)):
        gan(tmp_path, f"controls/dcgan_cls-s{seed}", diversity=diversity, collapsed=seed == 2)
        gan(tmp_path, f"controls/h-s{seed}", dict(share="1/8"), diversity=diversity)
    (x, low, high), generated, more = report.worth_of(report.Results(tmp_path), "cnn", ["dcgan_cls"])
    assert [x, generated[0], more[0]] == pytest.approx([.5, .05, .1]) and low < .5 < high
    markdown, _, said = page_of(tmp_path)
    mine, ours = said.split("But mine: COPIES its training images. ")
    worth = "Here images of mine did not help: one was worth -0.50 of a further real drawn lesion (95 % interval -"
    assert mine.startswith(worth) and "by -5.0 points [" in mine
    assert ours.startswith("Here GAN images helped: one was worth 0.50") and "by +10.0 points [" in ours
    assert "each arm's 3 seeds." in markdown
    lines = markdown.splitlines()
    first = lines.index("| added | 100 real images |")
    for line, gain in zip(lines[first + 2:], GAINS.strip().splitlines()):
        assert line.startswith(gain) and ("a GAN COLLAPSED" in line) == ("DCGAN" in line)
    assert "| dcgan_cls | 9 | 2 | 0.60 | 0.80 | 0.500 (0.250) | - | COLLAPSED: its rows count as failed |" in lines
    assert "| h | 9 | 2 | 0.50 | 0.80 | 0.500 (0.250) | - | alive |" in lines
    assert "0.90 [0.61, 0.95] | COPIES its training images |" in markdown
    assert report.state_of(MINE | dict(closer_to_train=[.7, .59, .8])) == "alive"
    distances = dict(fd_8x8_distance=.8, fd_8x8_floor=.25)
    assert report.gan_row("far", GAN | distances)["state"] == "alive, but far"
    chart = (tmp_path / "charts/001.svg").read_text()
    assert re.findall(r'>(mine|DCGAN \(001\))<|<circle cx="(\d+)"', chart) == [
        ("mine", ""), ("", "173"), ("DCGAN (001)", ""), ("", "259")]


@pytest.mark.parametrize("with_gan, more, said", [
    (.75, .70, "cannot be told here: as many further real photographs"),
    (.705, .80, "Here GAN images did not help: one was worth 0.05")])
def test_no_worth_without_a_gain_from_real_images_and_no_help_without_a_clear_gain(tmp_path, with_gan, more, said):
    controls(tmp_path, 0.70, with_gan, more)
    assert said in page_of(tmp_path)[2]


VERDICTS = """
+10.1 points: .10 .05 .15 .01 .01 reproduced; .03 .01 .05 .01 .01 same direction; .1 .05 .15 .02 .06 cannot
+10.1 points: .01 -.02 .04 .5 .5 not reproduced; .05 -.05 .15 .3 .3 cannot; .1 .05 .15 - - cannot
+10.1 points: -.1 -.2 -.05 .01 .01 not reproduced
-1.0 points: -.01 -.02 -.001 .01 .01 reproduced
no effect (-1 to 1): .001 -.01 .012 .9 .9 reproduced
no effect: .05 .03 .07 .01 .01 not reproduced; .05 .03 .07 .01 .06 cannot
no effect: .01 -.02 .03 .5 .5 cannot; -.01 -.03 .02 .5 .5 cannot
level 93.5 %: .93 .92 .95 - - reproduced; .86 .84 .88 - - not reproduced
better: .05 .02 .08 .01 .01 same direction; -.05 -.08 -.02 .01 .01 not reproduced; .01 -.02 .04 .5 .5 cannot
+1.0 points: .1 - - - - cannot be tested here: not run"""


def test_verdicts():
    """Claim: gain, its interval and p, p corrected by Holm, what became of the claim; ..."""
    for line in VERDICTS.strip().splitlines():
        printed, cases = line.split(": ", 1)
        for case in cases.split("; "):
            *numbers, expected = case.split(" ", 5)
            *gain, p = [None if number == "-" else float(number) for number in numbers]
            assert report.verdict(printed, gain, p).startswith(expected), (printed, case)
    assert report.verdict("+1.0 points", None, None) == "cannot be tested here: not run"


def test_claims_stand_on_the_first_screen_with_their_signs_protocols_and_one_correction(tmp_path, monkeypatch):
    nets = "cnn", "mobilenet", "resnet18"
    for number, net in enumerate(nets):
        classifier(tmp_path, f"wgan_gp/{net}_real", .70)
        classifier(tmp_path, f"wgan_gp/{net}_hybrid", .71 + .045 * number, tests=("real", "mixed"),
                   synthetic=["gan"] * (net == "resnet18"))
    gan(tmp_path, "wgan_gp/gan-s0", collapsed=True)
    classifier(tmp_path, "dcgan_cls/base", .93)
    first, paper, *_ = page_of(tmp_path)[0].split("### Claims")
    assert "| paper | claim | printed | ours, clean | verdict |" in first
    assert "| 003 |" not in first and "rehearsal" not in first and "Stated" not in paper
    help_resnet = r"help ResNet-18 \| \+10.1 points \| \+10.0 points \[.*\], a GAN COLLAPSED \| "
    assert re.search(r"\| 000 \| GAN images " + help_resnet + r"reproduced \|", first)
    assert re.search(help_resnet + r"\+20.0 points, a GAN COLLAPSED \|\n", paper) and "verdict |" not in paper
    assert first.count("a GAN COLLAPSED") == 2    # and the claim that sets others against it
    assert re.search(r"\| 001 \|.* \| level [\d.]+ % .*\| 93.0 \[.*\] % \|", first)
    quick = page_of(tmp_path, "quick")[0]
    assert "reproduced |" not in quick and "verdict |" not in quick
    assert "rehearsal" in quick.split("### Claims")[0]

    results = report.Results(tmp_path)
    pairs = [(f"{net}_real", f"{net}_hybrid") for net in nets] + [("cnn_hybrid resnet18_hybrid", "mobilenet_hybrid")]
    raw = [results.gain("wgan_gp", *pair)[3] for pair in pairs]
    monkeypatch.setattr(report, "verdict", lambda printed, gain, p: p)
    corrected = [row["verdict"] for row in report.claims_of(results, "wgan_gp", "claim")]
    assert corrected == metrics.holm(raw) != raw
    assert results.gain("wgan_gp", "cnn_real", "cnn_*")[0] == pytest.approx(.005)   # mean of those that fit
    assert results.gain("wgan_gp", "cnn_real vgg", "cnn_hybrid") is None


def test_the_readmes_claims_are_those_of_docs():
    tables = []
    for file in ("README.md", "docs/small.md"):
        text = (report.FILES[0].parent.parent / file).read_text()
        tables.append(re.findall(r"^\| paper \| claim .*\n(?:\|.*\n)+", text, re.MULTILINE))
    assert tables[0] == tables[1] and len(tables[0]) == 1 and tables[0][0].count("\n") > 10


def test_a_pretrained_network_from_random_weights_proves_no_claim(tmp_path):
    classifier(tmp_path, "dermagan/cnn_gan", .80)
    for weights, said in (("none", "cannot be tested here: without published weights"),
                          ("IMAGENET1K_V1", "same direction")):
        classifier(tmp_path, "dermagan/mobilenet", .70, weights=weights)
        [row] = [row for row in report.claims_of(report.Results(tmp_path), "dermagan", "ours, as printed")
                 if "MobileNet" in row["claim"]]
        assert row["verdict"] == said


CELLS = """
net: accuracy = 0.700 [0.6; accuracy % = 70.0 [6; loss = 0.700; validation accuracy = 0.750; auc = 0.689
net: benign, called malignant = 2; malignant, called benign = 3; x, recall malignant = 0.657
net: malignant, recall = 0.657; benign, precision = 0.807; f1 MEL = no f1 MEL here
net@mixed: accuracy = 0.800 [; loss = 0.800; malignant, called malignant = 5
net@other: accuracy = no other test
late: accuracy = not run: late
data: malignant, images train = 45; Sum, images test = 15; benign, images val = 0
gan: resemblance = 0.30; diversity = 0.90
score: distance 9 = FID 1.50 ± 0.25, noise floor 0.50, KID 0.001; distance more = not scored"""


def one_study(tmp_path):
    classifier(tmp_path, "s/net", .70, tests=("real", "mixed"))
    classifier(tmp_path, "s/net_2", .80)
    source(tmp_path, "s", "photographs")
    for seed, resemblance in enumerate((.2, .4)):
        gan(tmp_path, f"s/gan-s{seed}", resemblance=resemblance)
    row = dict(set="9", distance=1.5, spread=.25, floor=.5, kid=.001, inception_score=2)
    finished(tmp_path, "s/score", net="FID", rows=[row])
    layers = [["Conv2d", [4, 8, 8], 1234], ["Flatten", [], 0], ["total", [], 1300]]
    finished(tmp_path, "s/networks", tables=dict(net=layers, a=[["total", [], 7]]))
    return report.Results(tmp_path)


def test_cells_and_tables_have_their_own_values(tmp_path):
    results = one_study(tmp_path)
    for line in CELLS.strip().splitlines():         # job: first cell of the row, measure = value; ...
        job, cells = line.split(": ", 1)
        for cell in cells.split("; "):
            what, expected = cell.split(" = ")
            *first, measure = what.split(", ")
            assert report.value(results, "s", job, measure, "".join(first)).startswith(expected), cell

    row = {"class": "malignant", "as printed": "net_2", "clean": "net"}
    rows = [row | {"loss": ".5"}, row | {"loss": "not printed", "clean": "-"}]
    assert [list(row.values())[1:] for row in report.ours_below(results, "s", "class", rows)] == [
        ["printed", ".5"], ["ours, as printed", "0.800"], ["ours, clean", "0.700"], ["ours, as printed", "0.800"]]
    [beside] = report.ours_beside(results, "s", "class", [row | {"measure": "loss", "value": ".6"}])
    assert list(beside.items())[1:] == [
        ("measure", "loss"), ("printed", ".6"), ("ours, as printed", "0.800"), ("ours, clean", "0.700")]
    rows = [dict(layer="0", job="networks@net", output="4x8", parameters="1,234")]
    rows.append(dict(layer="total", job="", output="-", parameters="-"))
    assert [list(row.values()) for row in report.layers(results, "s", rows)] == [
        ["0", "4x8", "4x8x8", "1,234", "1,234"], ["total", "-", "-", "-", "1,300"]]
    assert report.layers(results, "s", [rows[0] | dict(job="late@net")])[0]["ours"] == "not run: late"
    assert list(report.counts(results, "s", "net")[0].values()) == ["benign", 30, 20, 7]
    shown = page.Page(tmp_path)
    report.figure(shown, results, "s", "3", "Matrix", "confusion", "net")
    assert shown.blocks[0] == "**Figure 3. Matrix**" and "| malignant | 3 | 4 |" in shown.blocks[1]


def test_figures_have_their_own_values(tmp_path, monkeypatch):
    results = one_study(tmp_path)

    def drawn(kind, name):
        return [picture for _, picture in report.pictures_of(results, kind, [f"s/{name}"])]

    def chart(title, label, series):
        return [(name, list(x), list(y)) for name, x, y in series]

    monkeypatch.setattr(report, "line_chart", chart)
    assert drawn("gan", "gan") == [[("D", [2, 4], [1, 3])]]
    assert drawn("distance", "score")[0] == [("distance", [9], [1.5]), ("floor", [9], [.5])]
    assert drawn("curves", "net")[0] == [("training", [1, 2], [.6, .7]), ("validation", [1, 2], [.5, .75])]
    [[(name, x, y)]] = drawn("roc", "net")
    right = np.random.default_rng(1).permutation(400) < 279
    area = (right[::3].mean() + np.delete(right, np.s_[::3]).mean()) / 2
    assert name == "malignant positive" and np.trapezoid(y, x) == pytest.approx(area)
    [(_, [(_, x, y)])] = report.dose(results, ["s/net_2"])
    assert x == [2] and y == pytest.approx([80])
    assert [path.name for path in drawn("steps", "net")] == ["grid_000001.png", "grid_000009.png"]


BLOCKS = {
    "### a *b* `c<d`": "<h3>a <i>b</i> <code>c&lt;d</code></h3>",
    "- **a**\n- b": "<ul><li><b>a</b></li><li>b</li></ul>",
    "| a |\n| --- |\n| 1 |": "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>",
    '![a "b" <c>](x.png)': 'alt="a &quot;b&quot; &lt;c&gt;"'}


def test_lines_go_where_their_numbers_are_and_blocks_become_html(tmp_path):
    chart = page.line_chart("a <title>", "x", [("up", [1, 3], [0, 10]), ("flat", [1, 2], [5, 5])])
    assert '"50.0,180.0 344.0,30.0"' in chart and '"50.0,105.0 197.0,105.0"' in chart
    assert "a &lt;title&gt;" in chart
    assert page.ticks(0, 10).tolist() == [0, 5, 10]
    assert 'd="M216 46H302"' in page.interval_chart("t", {"a": [.5, 0, 1]})
    for block, expected in BLOCKS.items():
        assert expected in page.to_html(block, tmp_path)
    shown = page.Page(tmp_path)
    shown.table([{"a|b": "<c>\nd"}])
    shown.pictures([("a [b]\n<c>", "<svg>"), ("lost", tmp_path / "lost.png")])
    assert shown.blocks == ["| a b |\n| --- |\n|  c  d |", "![a  b   c ](charts/001.svg)"]


@pytest.mark.parametrize("damage", [
    "{", '{"config": 3}', "[]", dict(metrics=3), dict(seconds="a"), dict(source=3), dict(config={}),
    dict(metrics=dict(late={})), dict(generators=dict(mine=dict(diversity=1))), "predictions.csv",
    dict(metrics=dict(diversity=1, collapsed=False))])
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
    markdown = page_of(tmp_path)[0]
    assert "Left out, damaged: controls/broken-s0: " in markdown and "| controls | unknown images | 1 on a GPU |" in markdown
    with pytest.raises(jobs.UserError, match="run_all.sh"):
        report.write(tmp_path / "nothing")


def test_every_string_is_escaped_and_what_breaks_a_section_does_not_break_the_page(tmp_path):
    evil = "<script>alert('`*|')</script>"
    classifier(tmp_path, "controls/a", .7, seeds=1)
    classifier(tmp_path, "controls/b", .7, seeds=1, synthetic=[evil], generators={evil: MINE})
    source(tmp_path, "controls", evil)
    file = tmp_path / "controls/data/result.json"
    jobs.write_json(file, jobs.read_json(file) | dict(counts=dict(train=3), commit=evil))
    markdown, html, _ = page_of(tmp_path)
    assert "<script" not in html and "## How this was made" in markdown
    assert "Left out, damaged: controls: AttributeError" in markdown


@pytest.mark.parametrize("origin, photographs", [
    ("ham10000 for kaggle", True), ("drawn lesions (seed 0)", False), ("/x/drawn lesions", True)])
def test_docs_hold_no_photograph_and_no_path_and_name_the_licence(tmp_path, origin, photographs):
    source(tmp_path, "acgan_cyclegan", origin)
    gan(tmp_path, "acgan_cyclegan/acgan")
    gan(tmp_path, "acgan_cyclegan/cycle_AK", dict(source="hash"))
    classifier(tmp_path, "acgan_cyclegan/isic0", .7, seeds=1)
    (tmp_path / "acgan_cyclegan/isic0-s0/predictions.csv").unlink()
    with pytest.raises(jobs.UserError, match="--licence"):
        page_of(tmp_path, docs=tmp_path / "docs")
    page_of(tmp_path, docs=tmp_path / "docs", licence="HAM10000, CC BY-NC 4.0")
    docs = tmp_path / "docs/small"
    text = docs.with_suffix(".md").read_text()
    pictures = {file.stem: Image.open(file).getpixel((0, 0)) for file in docs.glob("*.jpg")}
    assert ("acgan_cyclegan-data-grid" in pictures) != photographs
    assert pictures["acgan_cyclegan-acgan-grid"][0] > 200
    assert pictures["acgan_cyclegan-cycle_AK-grid"][2] > 200        # without the photographs that it translated
    assert str(tmp_path) not in text and "DIR/" in text and not re.search(r"(?<![\w./:])/\w+/", text)
    assert "learned HAM10000, CC BY-NC 4.0" in text
    assert "--scale small --data DIR`; written " in text and "| 3 on a GPU | abc1234 | 4 |" in text
    assert all((docs / name).exists() for name in re.findall(r"\]\(small/(.*)\)", text))
