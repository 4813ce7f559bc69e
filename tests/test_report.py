"""The report shows what is there: what is planted stands in its own cell, nothing else does."""
import re

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import jobs
import metrics
import page
import report

CLASSES = ["benign", "malignant"]
GAN = dict(diversity=.9, distinctness=.8, collapsed=False, fd_8x8_distance=.5, fd_8x8_floor=.25)
MINE = GAN | dict(closer_to_train=[.9, .61, .95])
PICTURES = {"grid.png": "red", "grid_000001.png": "black", "grid_000009.png": "blue"}


def part(name):
    """A part of report.txt, without its first paragraph."""
    text = (ROOT / "tests/report.txt").read_text(encoding="utf-8")
    return text.partition(f"== {name}\n")[2].partition("\n\n==")[0].partition("\n\n")[2].strip()


def without_intervals(words):
    return re.sub(r" \[[\d., +-]+\]| \(95 % interval [-\d. to]+\)", "", words)


def table(name):
    """Its lines, as lists of cells."""
    return [line.split("; ") for line in part(name).splitlines()]


def finished(out, job, config={}, **result):
    """A result.json, and the pictures of a job: each of one colour."""
    config = dict(model="cnn", classes=CLASSES, steps=9) | config
    if job[-3:-1] == "-s":
        config["seed"] = int(job[-1])
    empty = dict(seconds=1.5, command="python x", commit="abc1234", device="a GPU", metrics={})
    jobs.write_json(out / job / "result.json", empty | dict(config=config) | result)
    for name, colour in PICTURES.items():
        Image.new("RGB", (16, 16), colour).save(out / job / name)


def classifier(out, job, right, tests=("real",), config={}, **result):
    """Two seeds, right in that share of 400 images, 134 of them malignant; in .1 more if mixed."""
    truth = (np.arange(400) % 3 == 0).astype(int)
    curves = dict(loss=[1, .5], accuracy=[.6, .7], val_loss=[1, .6], val_accuracy=[.5, .75])
    result = dict(leaked=0, curves=curves, counts=dict(benign=50, malignant=50)) | result
    for seed in range(2):
        lines, found = ["test,image,lesion,label,benign,malignant"], {}
        for test in tests:
            share = right + 0.1 * (test == "mixed") + 0.0025 * (2 * seed - 1)
            correct = np.random.default_rng(1).permutation(400) < round(share * 400)
            for k, score in enumerate(np.where(truth == correct, .9, .1)):
                lines.append(f"{test},i,{test}{k},{CLASSES[truth[k]]},{1 - score:.1f},{score}")
            found[test] = dict(loss=share, confusion=[[81, 2], [3, len(test)]])
        finished(out, f"{job}-s{seed}", config, metrics=found, **result)
        (out / f"{job}-s{seed}/predictions.csv").write_text("\n".join(lines) + "\n")


def gan(out, job, config={}, **measures):
    curves = dict(window=2, D=[1, 3], penalty=[9, 9])
    finished(out, job, dict(model="dcgan_cls") | config, metrics=GAN | measures, curves=curves)


def source(out, study, name):
    counts = dict(train=dict(benign=30, malignant=45), test=dict(benign=7, malignant=8))
    finished(out, f"{study}/data", source=dict(source=name, stand_in=None), counts=counts)


def page_of(out, scale="small", **options):
    jobs.write_json(out / "config.json", dict(scale=scale, data="photos"))
    said = report.write(out, **options)
    return (out / "report.md").read_text(), (out / "report.html").read_text(), said


def controls(out, name, with_gan, more):
    """The arms of a DCGAN, of which one seed collapsed, and those of one's own generator."""
    source(out, "controls", name)
    for seed, diversity in enumerate((.7, .5, .6)):
        gan(out, f"controls/dcgan_cls_50-s{seed}", diversity=diversity, collapsed=seed == 2)
        far = dict(fd_8x8_distance=.8, closer_to_train=[.7, .59, .8])
        gan(out, f"controls/far-s{seed}", diversity=diversity, **far)
    for name, right in (("50_real", .70), ("100_real", more), ("50_classical", .78)):
        classifier(out, f"controls/cnn_{name}", right)
    learned = dict(command="python x --synthetic y/dcgan_cls_50-s2")
    mine = dict(generators={"my-vae": MINE})
    for name, right, result in (("dcgan_cls", with_gan, learned), ("mine", .65, mine)):
        for arm, less in (("", 0), ("_shuffled", .1), ("_alone", .2)):
            classifier(out, f"controls/cnn_50_{name}{arm}", right - less, **result)


def test_what_is_planted_in_the_controls_is_found_and_ones_own_generator_named_first(tmp_path):
    controls(tmp_path, "drawn lesions (seed 3)", .75, .80)
    study = report.Study(tmp_path / "controls", [])
    (x, low, high), generated, more = report.worth_of(study, ["dcgan_cls"])
    assert [x, generated[0], more[0]] == pytest.approx([.5, .05, .1]) and low < .5 < high
    markdown, _, said = page_of(tmp_path)
    assert without_intervals(said) == part("answer").replace("\n", " ")
    assert "each arm's 2 seeds." in markdown
    gains = markdown.split("| added | 100 real images |\n| --- | --- |\n")[1].splitlines()
    for line, (added, gain) in zip(gains, table("gains")):
        assert line.startswith(f"| {added} | {gain}"), line
        assert ("a GAN COLLAPSED" in line) == ("DCGAN" in line)
    assert part("gans") in markdown
    chart = (tmp_path / "charts/001.svg").read_text()
    assert re.findall(r'<circle cx="(\d+)"', chart) == ["173", "259"]      # of my-vae, the DCGAN


@pytest.mark.parametrize("with_gan, more, said", [
    (.75, .70, "cannot be told here: as many further real photographs"),
    (.705, .80, "Here GAN images did not help: one was worth 0.05")])
def test_no_worth_without_a_gain_from_real_images(tmp_path, with_gan, more, said):
    controls(tmp_path, "photographs", with_gan, more)
    assert said in page_of(tmp_path)[2]


@pytest.mark.parametrize("printed, gain, p, expected", table("verdicts"))
def test_verdicts(printed, gain, p, expected):
    *gain, p = [None if number == "-" else float(number) for number in f"{gain} {p}".split()]
    assert report.verdict(printed, gain, p) == expected
    assert report.verdict(printed, None, None) == "cannot be tested here: not run"


def test_claims_stand_on_the_first_screen_with_signs_and_protocols(tmp_path, monkeypatch):
    for number, net in enumerate(("cnn", "mobilenet", "resnet18")):
        learned = "--synthetic y/gan-s0" * (net == "resnet18")
        classifier(tmp_path, f"wgan_gp/{net}_real", .70)
        classifier(tmp_path, f"wgan_gp/{net}_hybrid", .71 + .045 * number, ("real", "mixed"),
                   command=f"python x {learned}")
    gan(tmp_path, "wgan_gp/gan-s0", collapsed=True)
    classifier(tmp_path, "dcgan_cls/base", .93)
    classifier(tmp_path, "dermagan/cnn_gan", .80)
    classifier(tmp_path, "dermagan/mobilenet", .70, config=dict(weights="none"))
    first, paper, *_ = page_of(tmp_path)[0].split("### Claims")
    assert "| paper | claim | printed | ours, clean | verdict |" in first
    assert "| 004 |" not in first and "rehearsal" not in first and "Stated" not in paper
    resnet = r"help ResNet-18 \| \+10.1 points \| \+10.0 points \[.*\], a GAN COLLAPSED \| "
    assert re.search(r"\| 000 \| GAN images " + resnet + r"reproduced \|", first)
    assert re.search(resnet + r"\+20.0 points, a GAN COLLAPSED \|\n", paper)
    assert "verdict |" not in paper
    assert first.count("a GAN COLLAPSED") == 2      # and the claim that sets others against it
    assert re.search(r"\| 001 \|.* \| level [\d.]+ % .*\| 93.0 \[.*\] % \|", first)
    assert re.search(r"better than MobileNet, .*: without published weights \|", first)
    quick = page_of(tmp_path, "quick")[0]
    assert "verdict |" not in quick and "rehearsal" in quick.split("### Claims")[0]

    study = report.Study(tmp_path / "wgan_gp", [])
    pairs = [(f"{net}_real", f"{net}_hybrid") for net in ("cnn", "mobilenet", "resnet18")]
    raw = [study.gain(*pair)[3] for pair in pairs]
    raw.append(study.gain("cnn_hybrid resnet18_hybrid", "mobilenet_hybrid")[3])
    monkeypatch.setattr(report, "verdict", lambda printed, gain, p: p)
    corrected = [row["verdict"] for row in report.claims_of(study, "claim")]
    assert corrected == metrics.holm(raw) != raw
    assert study.gain("cnn_real", "cnn_*")[0] == pytest.approx(.005)    # mean of those that fit
    assert study.gain("cnn_real vgg", "cnn_hybrid") is None


def test_the_readmes_claims_are_those_of_docs():
    found = []
    for name in ("README.md", "docs/small.md"):
        found += re.findall(r"(?m)^\| paper \| claim .*\n(?:\|.*\n)+", (ROOT / name).read_text())
    assert len(found) == 2 and found[0] == found[1] and found[0].count("\n") > 10


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    classifier(out, "s/net", .70, tests=("real", "mixed"))
    classifier(out, "s/net_2", .80)
    source(out, "s", "photographs")
    gan(out, "s/gan-s0", resemblance=.2)
    gan(out, "s/gan-s1", resemblance=.4)
    row = dict(set="9", distance=1.5, spread=.25, floor=.5, kid=.001, inception_score=2)
    finished(out, "s/score", net="FID", rows=[row])
    layers = [["Conv2d", [4, 8, 8], 1234], ["Flatten", [], 0], ["total", [], 1300]]
    finished(out, "s/networks", tables=dict(net=layers, a=[["total", [], 7]]))
    return report.Study(out / "s", [])


@pytest.mark.parametrize("job, row, measure, expected", table("cells"))
def test_cells_have_their_own_values(study, job, row, measure, expected):
    assert report.value(study, job, measure, row).startswith(expected)


def test_a_papers_tables_and_figures_are_filled(study, tmp_path, monkeypatch):
    (tmp_path / "s.md").write_text(part("paper"), encoding="utf-8")
    monkeypatch.setitem(report.PAPERS, "s", tmp_path / "s.md")
    shown = page.Page(study.jobs["data"]["folder"].parent.parent)
    report.paper_section(shown, study)
    assert without_intervals("\n\n".join(shown.blocks)) == part("section")


def test_figures_have_their_own_values(study, monkeypatch):
    def drawn(kind, name):
        return [picture for _, picture in report.pictures_of(study, kind, name)]

    monkeypatch.setattr(report, "line_chart", lambda title, label, series: [
        (name, list(x), list(y)) for name, x, y in series])
    assert drawn("gan", "gan") == [[("D", [2, 4], [1, 3])]]
    assert drawn("distance", "score") == [
        [("distance", [9], [1.5]), ("floor", [9], [.5])], [("inception score", [9], [2])]]
    assert drawn("training", "net") == drawn("curves", "net")[:2] == [
        [("training", [1, 2], [.6, .7]), ("validation", [1, 2], [.5, .75])],
        [("training", [1, 2], [1, .5]), ("validation", [1, 2], [1, .6])]]
    [[(name, x, y)]] = drawn("roc", "net")
    assert name == "malignant positive" and np.trapezoid(y, x) == pytest.approx(.689, abs=.002)
    assert drawn("curves", "net")[2] == [(name, x, y)]
    [(_, [(kind, x, y)])] = report.dose(study, ["net_2"])
    assert kind == "net" and x == [2] and y == pytest.approx([80])


def test_blocks_become_html_and_lines_go_where_their_numbers_are(tmp_path):
    for block, expected in (
            ("### a *b* `c<d`", "<h3>a <i>b</i> <code>c&lt;d</code></h3>"),
            ("- **a**\n- b", "<ul><li><b>a</b></li><li>b</li></ul>"),
            ("| a |\n| --- |\n| 1 |", "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"),
            ('![a "b" <c>](x.png)', 'alt="a &quot;b&quot; &lt;c&gt;"')):
        assert expected in page.to_html(block, tmp_path)
    chart = page.line_chart("a <title>", "x", [("up", [1, 3], [0, 10]), ("flat", [1, 2], [5, 5])])
    assert '"50.0,180.0 344.0,30.0"' in chart and '"50.0,105.0 197.0,105.0"' in chart
    assert re.findall(r">([\d.]+|a &lt;title&gt;)<", chart) == [
        "a &lt;title&gt;", "0", "1", "5", "2", "10", "3"]
    assert 'd="M216 46H302"' in page.interval_chart("t", {"a": [.5, 0, 1]})
    shown = page.Page(tmp_path)
    shown.table([{"a|b": "<c>\nd"}])
    shown.pictures([("a [b]\n<c>", "<svg>"), ("lost", tmp_path / "lost.png")])
    assert shown.blocks == ["| a b |\n| --- |\n|  c  d |", "![a  b   c ](charts/001.svg)"]


@pytest.mark.parametrize("damage", [
    "{", "[]", dict(config=3), dict(metrics=3), dict(metrics=dict(late={})), dict(seconds="a"),
    dict(generators=dict(mine=dict(diversity=1))), dict(metrics=dict(diversity=1))])
def test_a_broken_or_foreign_file_is_named_and_skipped(tmp_path, damage):
    classifier(tmp_path, "controls/cnn_100_mine", .7)
    file = tmp_path / "controls/cnn_100_mine-s0/result.json"
    if isinstance(damage, str):
        file.write_text(damage)
    else:
        jobs.write_json(file, jobs.read_json(file) | damage)
    markdown = page_of(tmp_path)[0]
    assert "Left out, damaged: controls/cnn_100_mine-s0: " in markdown
    assert "| controls | unknown images | 1 on a GPU |" in markdown
    with pytest.raises(jobs.UserError, match="run_all.sh"):
        report.write(tmp_path / "nothing")


def test_every_string_is_escaped_and_what_breaks_a_section_does_not_break_the_page(tmp_path):
    evil = "<script>alert('`*|')</script>"
    classifier(tmp_path, "controls/cnn_100_mine", .7, generators={evil: MINE}, commit=evil)
    classifier(tmp_path, "dcgan_cls/base", .7, command=3)
    finished(tmp_path, "controls/data", source=dict(source=evil), counts=dict(train=3))
    markdown, html, _ = page_of(tmp_path)
    assert "<script" not in html and "## How this was made" in markdown
    for study in ("controls", "dcgan_cls"):
        assert f"Left out, damaged: {study}: " in markdown


@pytest.mark.parametrize("origin, photographs", [
    ("ham10000 for kaggle", True), ("drawn lesions (seed 0)", False), ("/x/drawn lesions", True)])
def test_docs_hold_no_photograph_and_no_path_and_name_the_licence(tmp_path, origin, photographs):
    source(tmp_path, "acgan_cyclegan", origin)
    gan(tmp_path, "acgan_cyclegan/acgan")
    gan(tmp_path, "acgan_cyclegan/cycle_AK", dict(source="hash"))
    classifier(tmp_path, "acgan_cyclegan/isic0", .7)
    (tmp_path / "acgan_cyclegan/isic0-s1/predictions.csv").unlink()
    options = dict(docs=tmp_path / "docs")
    with pytest.raises(jobs.UserError, match="--licence"):
        page_of(tmp_path, **options)
    page_of(tmp_path, licence="HAM10000, CC BY-NC 4.0", **options)
    docs = tmp_path / "docs/small"
    text = docs.with_suffix(".md").read_text()
    pixels = {file.stem: Image.open(file).getpixel((0, 0)) for file in docs.glob("*.jpg")}
    assert ("acgan_cyclegan-data-grid" in pixels) != photographs
    assert pixels["acgan_cyclegan-acgan-grid"][0] > 200
    assert pixels["acgan_cyclegan-cycle_AK-grid"][2] > 200  # without what it translated
    assert "DIR/" in text and not re.search(r"(?<![\w./:])/\w+/", text)
    assert "learned HAM10000, CC BY-NC 4.0" in text and "| 4 on a GPU | abc1234 | 6 |" in text
    assert "--scale small --data DIR`; written " in text
    assert all((docs / name).exists() for name in re.findall(r"\]\(small/(.*)\)", text))
