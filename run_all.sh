#!/usr/bin/env bash
# Every table and figure of the five papers, and the controls: one job per line, in the order of the tables.
#
#   bash run_all.sh [STUDY ...]           every job of the named studies (default: all), then the report
#   bash run_all.sh list [STUDY ...]      state, stage, name and command of each job; runs nothing
#   bash run_all.sh report | test         the report of what is there; the tests
#
#   --scale quick|small|paper   minutes on a laptop (default); hours of a CPU; the papers' own sizes, on a GPU
#   --data DIR                  photographs: DIR/kaggle_binary, isic2019, ham10000, isic_archive; or your own,
#                               DIR/benign and DIR/malignant. Without it the lesions are drawn
#   --synthetic DIR             images of your own generator, DIR/benign and DIR/malignant: judged by controls
#   --out DIR                   results folder (default results/SCALE, with --data results/SCALE-NAME)
#   --seeds N                   classifiers per arm (default 1 at quick scale, 3 small, 5 paper; controls 3, 5, 5)
#   --jobs N                    jobs at once (default 2; in a dry run 1; on a GPU 1, but see README on MPS)
#   --dry-run                   two steps of one job of each kind, at full size: hours, memory and disk of the whole
#   --weights none              networks that a paper takes pretrained start from random weights (quick: always)
# Jobs that are done are skipped, jobs that were cut off go on. Studies: wgan_gp dcgan_cls acgan_cyclegan
# dermagan dcgan_inception (one per paper), controls (what is one GAN image worth?).
set -u
STUDIES="wgan_gp dcgan_cls acgan_cyclegan dermagan dcgan_inception controls"

# ---- The experiments ------------------------------------------------------------------------------------
# job NAME COMMAND and each_seed NAME COMMAND add a job to the stage; @other is the folder of another job of
# the study, % the seed. A job needs the earlier stages of its study. $(data N) is the photographs, or N drawn
# lesions; $BF16, $DRY: options or nothing; N/M: N images where the paper has M. Weights: kept for later jobs only.

wgan_gp() {     # paper 000: a WGAN-GP per class; CNN, MobileNet, ResNet-18 on real and real + GAN images
  local gan="" fit=$BF16 benign=879 malignant=888 mixed="100 104" net  # GAN images; those in the mixed test
  case $SCALE in
    quick) gan="--width 8 --batch 8 --lr 2e-3 --steps 80" fit="--size 32 --steps 40 --batch 16 $BF16"
           benign=118 malignant=142 mixed="13 16" ;;
    small) gan="--width 16 --batch 16 --lr 5e-4 --steps 600" fit="--size 32 --epochs 8 $BF16" ;;
  esac
  gan+=" --forget $DRY" fit+=" --forget $DRY"
  stage
  job networks gan.py describe wgan_gp
  job data data.py prepare $(data 480) --for wgan_gp --size 64
  stage
  job gan_benign    gan.py train wgan_gp --data @data --class benign --samples $benign $gan
  job gan_malignant gan.py train wgan_gp --data @data --class malignant --samples $malignant $gan
  for net in cnn mobilenet resnet18; do each_seed ${net}_real classify.py train $net --data @data $fit; done
  stage
  fit+=" --synthetic @gan_benign @gan_malignant --mixed-test $mixed"
  for net in resnet18 mobilenet cnn; do each_seed ${net}_hybrid classify.py train $net --data @data $fit; done
}

dcgan_cls() {   # paper 001: a DCGAN on filtered images; its discriminator becomes the classifier
  local gan=$BF16 plain=$BF16 lapgan=$BF16 fit=$BF16 samples=1300
  local hundred="--batch 100" fast="--lr 0.001" high="--optimizer sgd --lr 0.02"
  case $SCALE in
    quick) gan="--width 8 --batch 16 --lr 2e-3 --steps 300 $BF16" samples=160
           fit="--width 8 --steps 40 --batch 16 --lr 1e-3 $BF16" hundred="--batch 12" fast="--lr 4e-3"  # in proportion
           plain="--width 200 --batch 16 --lr 1e-3 --steps 500"
           lapgan="--width 12 --batch 16 --lr 4e-3 --beta1 0 --steps 400 $BF16" ;;
    small) gan="--width 16 --batch 32 --steps 1000 $BF16" samples=600 hundred="--batch 25"
           fit="--width 16 --batch 32 --steps 800 $BF16" plain="--width 400 --batch 32 --steps 6000"
           lapgan="--width 16 --batch 32 --lr 2e-3 --beta1 0 --steps 400 $BF16" ;;
  esac
  gan+=" $DRY" plain+=" --forget $DRY" lapgan+=" --forget $DRY" fit+=" $DRY"
  local net=inception scratch=--forget          # the FID's network; else one that began as no discriminator
  if [ "$WEIGHTS" ]; then net=@base_scratch-s0 scratch=""; fi
  local prepare="data.py prepare $(data 480) --for dcgan_cls --size 64 --resplit --test 0.2581"
  stage
  job data     $prepare --enhance
  job data_raw $prepare
  stage
  local dcgan="gan.py train dcgan_cls --data @data --samples $samples"
  job dcgan_base     $dcgan $gan
  job dcgan_batch100 $dcgan $gan $hundred
  job dcgan_lr1e3    $dcgan $gan $fast
  job dcgan_sgd      $dcgan $gan --optimizer sgd
  job dcgan_sgd_high $dcgan $gan $high
  job dcgan_raw      gan.py train dcgan_cls --data @data_raw --samples $samples $gan
  job plain_gan      gan.py train plain_gan --data @data --samples $samples $plain
  job lapgan         gan.py train lapgan --data @data --samples $samples $lapgan
  stage
  local trunk="classify.py train trunk --data @data --forget $fit"
  each_seed base         $trunk --from @dcgan_base
  each_seed batch100     $trunk --from @dcgan_batch100 $hundred
  each_seed lr1e3        $trunk --from @dcgan_lr1e3 $fast
  each_seed sgd          $trunk --from @dcgan_sgd --optimizer sgd
  each_seed sgd_high     $trunk --from @dcgan_sgd_high $high
  each_seed base_probe   $trunk --from @dcgan_base --frozen-epochs 25
  each_seed base_scratch classify.py train trunk --data @data $scratch $fit
  each_seed raw          classify.py train trunk --data @data_raw --from @dcgan_raw --forget $fit
  stage
  job fid classify.py score $net @dcgan_base @plain_gan @lapgan --data @data $DRY
}

acgan_cyclegan() {      # paper 002: ACGAN; a CycleGAN per class upon it; CycleGANs from nevus to melanoma
  local acgan="--size 128 $BF16" fit="--size 256 $BF16" limit="" px=256 nv2mel="" class n alpha resnet
  local classes="AK BCC BKL DF MEL NV SCC VASC" counts="2000 4000 8000 16000 24000"
  local cyclegan="--size 256 --steps 30000 $BF16"       # 200 epochs of each class would be 15 million steps
  if [ "$DATA" ] && [ ! -d "$DATA/isic2019" ]; then classes="AK BCC BKL DF MEL NV VASC"; fi
  case $SCALE in
    quick) px=32 nv2mel="--steps 100" acgan="--size 32 --width 16 --batch 24 --beta1 0 --lr 1.5e-3 --steps 350 $BF16"
           cyclegan="--size 32 --width 14 --blocks 1 --batch 2 --lr 2e-3 --steps 250"
           fit="--size 32 --width 8 --batch 8 --steps 5"
           if [ "$DATA" ]; then limit="--limit NV=90 MEL=90 BCC=90 BKL=90 AK=90"; fi ;;
    small) px=64 acgan="--size 32 --width 16 --batch 24 --beta1 0 --lr 1.5e-3 --steps 350 $BF16"    # at 64 px it fell
           cyclegan="--size 64 --width 16 --blocks 3 --batch 2 --lr 1e-3 --steps 400"
           fit="--size 64 --width 16 --batch 64 --epochs 8 --weights none $BF16"
           limit="--limit NV=600 MEL=300 BCC=250 BKL=250" ;;
  esac
  acgan+=" --forget $DRY" cyclegan+=" --forget $DRY"
  resnet="classify.py train resnet50 --data @data $fit $WEIGHTS $DRY"
  local made="@cycle_${classes// / @cycle_}" few="500 1000 2000 3000 4000 5000 6000 7000"
  stage
  job data data.py prepare $(data 720) --for acgan_cyclegan --size $px --resplit --val 0.1111 --test 0.1 $limit
  stage
  job acgan gan.py train acgan --data @data --samples 24000/20264 $acgan
  each_seed isic0 $resnet
  resnet+=" --lr-of @isic0-s% --forget"                 # of all others
  stage
  local upon_acgan="gan.py train cyclegan --source @acgan --data @data --samples 1/1 $cyclegan"
  for class in $classes; do job cycle_$class $upon_acgan --source-class $class --class $class; done
  job rank classify.py rank @isic0-s0 --data @data --class MEL $DRY
  for n in $counts; do each_seed acgan_$n $resnet --synthetic @acgan --use $n/24000; done
  stage
  for n in $counts; do each_seed cyclegan_$n $resnet --synthetic $made --use $n/24000; done
  local from_nevi="gan.py train cyclegan --source @data --source-class NV --data @rank --class MEL --samples 7000/10300"
  for alpha in 8 4 2 1; do job nv2mel_$alpha $from_nevi --top 1/$alpha $cyclegan $nv2mel; done
  stage
  for alpha in 8 4 2 1; do
    for n in $few; do each_seed mel_${alpha}_$n $resnet --synthetic @nv2mel_$alpha --use $n/7000; done
  done
}

dermagan() {    # paper 003: a DCGAN per class; as printed the GANs see the test images and steps differ
  local gan="" steps="--steps 3000" epochs="--epochs 100" size="" nets="" net model rate class
  local fit="--lr 2e-4 --beta1 0.5 --batch 64" samples=100 test=100 n=4400
  case $SCALE in
    quick) gan="--width 8 --z-dim 64 --batch 16 --lr 2e-3 --steps 200 $BF16" samples=20 test=20 n=800 size="--size 32"
           fit="--batch 16 --lr 1e-3 $BF16" steps="--steps 30" epochs="--epochs 2" nets="--steps 3" ;;
    small) gan="--width 16 --batch 16 --lr 5e-4 --steps 1200 $BF16" size="--size 32"
           fit+=" $BF16" steps="--steps 2000" nets="--steps 100 --batch 16" ;;
    paper) gan="--steps 6000 $BF16" fit+=" $BF16" ;;    # 200 epochs of the clean part: 1,000 steps, too few
  esac
  gan+=" --forget $DRY" fit+=" --forget $DRY"
  stage
  job data data.py prepare $(data $n) --for dermagan --size 64 --resplit --test $test --val 0.1 \
    --limit MEL=509 BKL=513 AK=456 BCC=498
  stage
  for class in AK BCC BKL MEL; do
    job gan_$class         gan.py train dermagan --data @data --class $class --samples $samples $gan
    job printed_gan_$class gan.py train dermagan --data @data --class $class --samples $samples --leak $gan
  done
  local clean="--synthetic @gan_AK @gan_BCC @gan_BKL @gan_MEL"
  local printed="--synthetic @printed_gan_AK @printed_gan_BCC @printed_gan_BKL @printed_gan_MEL --allow-leak"
  local cnn="classify.py train derma_cnn --data @data $fit"
  each_seed cnn_real         $cnn $steps
  each_seed cnn_real_printed $cnn $epochs
  stage
  each_seed cnn_gan          $cnn $clean $steps
  each_seed cnn_gan_printed  $cnn $printed $epochs
  for net in mobilenet:mobilenet_flat mobilenet_v2:mobilenet_v2 resnet50:resnet50_flat vgg16:vgg16 vgg19:vgg19; do
    model="classify.py train ${net#*:} --data @data $fit $size $WEIGHTS"
    each_seed ${net%:*}         $model $clean ${nets:-$steps}
    each_seed ${net%:*}_printed $model $printed ${nets:-$epochs}
  done
  for rate in 0 0.1 0.2 0.3 0.4 0.5; do each_seed dropout_$rate $cnn $clean $steps --dropout $rate; done
}

dcgan_inception() {     # paper 004: a DCGAN of malignant images fills the smaller class; Inception V3
  local n=600 limit="" full=299 gan="" fit="" net=inception train
  case $SCALE in
    quick) full=80 gan="--width 12 --batch 16 --steps 300 --lr 1e-3 --snapshots 48 $BF16"
           fit="--size 80 --batch 8 --steps 8" ;;
    small) full=96 gan="--width 16 --batch 32 --lr 5e-4 --steps 1000 --snapshots 200 $BF16"
           fit="--size 80 --batch 32 --epochs 2 $BF16" ;;
    paper) gan="--snapshots 2000 $BF16" fit=$BF16 ;;
  esac
  if [ ! "$DATA" ]; then limit="--limit malignant=250"; fi      # the paper's ratio of malignant to benign: 0.83
  if [ "$WEIGHTS" ]; then net=@judge; fi         # without the FID's weights: a small network of ours
  train="classify.py train inception --data @data --forget $fit $WEIGHTS $DRY"
  stage
  job data data.py prepare $(data $n) $limit --for dcgan_inception --resplit --val 0.1111 --test 0.1 --size $full
  stage
  job dcgan gan.py train dcgan_inception --data @data --class malignant --samples balance --forget $gan $DRY
  each_seed original    $train
  each_seed original_64 $train --through 64
  if [ "$WEIGHTS" ]; then job judge classify.py train cnn --data @data --steps 150 --batch 16 $DRY; fi
  stage
  each_seed augmented    $train --synthetic @dcgan
  each_seed augmented_64 $train --synthetic @dcgan --through 64
  job fid_curve classify.py score $net --data @data --class malignant --over-steps @dcgan $DRY
}

controls() {    # ours: what is one GAN image worth? All arms make the same steps, tested on the same images
  # Sizes: % of the half that GANs may see; the whole training part is 200. 25 at paper scale alone: else too few.
  local fit="--steps 20000 --batch 32 $BF16" gans="wgan_gp dcgan_cls dermagan dcgan_inception" limit=""
  local gan_steps="--steps 6000 --batch 32 $BF16" nets="cnn resnet18" sizes="25 50 100" test=0.4 alive="" net size gan train
  case $SCALE in
    quick) fit="--size 32 --steps 300 --batch 16 $BF16" gans="dcgan_cls" nets="cnn" sizes="50 100" test=0.8
           gan_steps="--width 16 --batch 16 --lr 1e-3 --steps 250 $BF16"
           if [ "$DATA" ]; then limit="--limit benign=1000 malignant=1000"; fi ;;
    small) limit="--limit benign=1954 malignant=1954" fit="--steps 1500 --batch 32 $BF16" nets="cnn" sizes="50 100"
           gan_steps="--width 32 --batch 16 --steps 1500 $BF16" test=0.5 gans=${gans#wgan_gp }   # takes ten times as long
           alive="--lr 1e-3" ;;         # at its own 2e-4 paper 003's DCGAN collapsed for 2 of 3 seeds
  esac
  fit+=" --schedule 1cycle --forget $DRY" gan_steps+=" --forget $DRY"
  stage
  job data data.py prepare $(data 3000) --for controls --size 64 --resplit --drop-near --val 0.02 --test $test $limit
  stage
  for gan in $gans; do              # each seed of a classifier has GANs of its own: their chance counts too
    for size in $sizes; do
      train="gan.py train $gan --data @data --share $size/200 --samples 1/1 $gan_steps"
      if [ $gan = dermagan ]; then train+=" $alive"; fi
      for class in benign malignant; do each_seed ${gan}_${size}_$class $train --class $class; done
    done
  done
  stage
  for net in $nets; do
    train="classify.py train $net --data @data $fit --share"
    for size in $sizes 200; do each_seed ${net}_${size}_real $train $size/200; done
    for size in $sizes; do
      each_seed ${net}_${size}_classical $train $size/200 --augment classical
      for gan in $gans; do
        with_synthetic ${net}_${size}_$gan "@${gan}_${size}_benign-s% @${gan}_${size}_malignant-s%" $train $size/200
      done
    done
    if [ "$SYNTHETIC" ]; then           # it learned the 100 %: what `data.py export --share 1/2` writes
      with_synthetic ${net}_100_$MINE "$(printf %q "$SYNTHETIC")" $train 100/200
    fi
  done
}

with_synthetic() {      # NAME SETS TRAINING: with these sets added, with their labels permuted, alone
  each_seed $1 "${@:3}" --synthetic $2
  each_seed $1_shuffled "${@:3}" --synthetic $2 --shuffle
  each_seed $1_alone "${@:3}" --synthetic $2 --alone
}

# ---- The list -------------------------------------------------------------------------------------------

data() { if [ "$DATA" ]; then printf '%q' "$DATA"; else echo "--built-in $1"; fi; }
stage() { STAGE=$((STAGE + 1)); }

job() {         # one line of the list: STUDY, STAGE, NAME, COMMAND
  local name=$1 word command=""; shift
  for word in "$@" --out "@$name"; do
    case $word in @*) printf -v word %q "$OUT/$STUDY/${word#@}" ;; esac
    command+=" $word"
  done
  printf '%s\t%s\t%s\t%s\n' "$STUDY" "$STAGE" "$name" "${command# }"
}

each_seed() {   # the same job for every seed: NAME-s0, NAME-s1, ...; % is the seed
  local name=$1 seed; shift
  for ((seed = 0; seed < REPEATS; seed++)); do job "$name-s$seed" "${@//-s%/-s$seed}" --seed $seed; done
}

experiments() {
  for STUDY in ${CHOSEN:-$STUDIES}; do
    STAGE=0 REPEATS=$SEEDS
    if [ $STUDY = controls ]; then REPEATS=$CONTROLS_SEEDS; fi
    $STUDY
  done
}

list() {
  printf 'state\tstage\tjob\tcommand\n'
  experiments | while IFS=$'\t' read -r study stage name command; do
    if [ -f "$OUT/$study/$name/result.json" ]; then state=done; else state=todo; fi
    printf '%s\t%s\t%s/%s\tpython %s\n' $state "$stage" "$study" "$name" "$command"
  done
}

# ---- Set-up and command line ----------------------------------------------------------------------------

stop() { echo "run_all.sh: $*" >&2; exit 2; }
find_python() { # .venv if it is there; else the current Python if it has the packages; else .venv is made
  local needed="torch, torchvision, numpy, scipy, PIL"; if [ "$COMMAND" = test ]; then needed+=", pytest"; fi
  PYTHON=.venv/bin/python; if [ -f .venv/ready ]; then return; fi
  if python3 -c "import $needed" 2>/dev/null; then PYTHON=python3; return; fi
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || stop "Python 3.10 or newer is needed (python3)"
  echo "first run: installing torch, torchvision, numpy, pillow and scipy into .venv (some minutes, about 6 GB)"
  python3 -m venv .venv || stop "python3 -m venv failed: install your system's python3-venv package"
  $PYTHON -m pip install -q -r requirements.txt || stop "the installation failed: is there a network?"
  touch .venv/ready
}

COMMAND=run SCALE=quick DATA="" SYNTHETIC="" OUT="" ASKED="" JOBS="" WEIGHTS="" CHOSEN="" DRY="" BF16="" status=0
while [ $# -gt 0 ]; do
  case $1 in --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;; esac
  case $1 in
    --scale|--data|--synthetic|--out|--seeds|--jobs|--weights) [ "${2:-}" ] || stop "$1 needs a value (see --help)"
      case $1 in
        --scale) SCALE=$2 ;;  --seeds) ASKED=$2 ;;  --jobs) JOBS=$2 ;;
        --data) DATA=$(realpath -e -- "$2") && [ -d "$DATA" ] || stop "--data $2: no such folder" ;;
        --synthetic) SYNTHETIC=$(realpath -m -- "$2")
          [ -d "$2/benign" ] && [ -d "$2/malignant" ] || stop "--synthetic $2: no folders benign and malignant in it" ;;
        --out) OUT=$(realpath -m -- "$2") ;;
        --weights) [ "$2" = none ] || stop "--weights $2: only none can be given"; WEIGHTS="--weights none" ;;
      esac
      shift ;;
    --dry-run) DRY=--dry-run ;;
    -h|--help) sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0" | sed '/^set -u/d'; exit 0 ;;
    list|report|test) COMMAND=$1 ;;
    *) case " $STUDIES " in *" $1 "*) CHOSEN+=" $1" ;; *) stop "unknown word $1 (see --help)" ;; esac ;;
  esac
  shift
done
case $SCALE in
  quick) SEEDS=${ASKED:-1} CONTROLS_SEEDS=${ASKED:-3} WEIGHTS="--weights none" ;;
  small) SEEDS=${ASKED:-3} CONTROLS_SEEDS=${ASKED:-5} ;;
  paper) SEEDS=${ASKED:-5} CONTROLS_SEEDS=${ASKED:-5} ;;
  *) stop "--scale $SCALE: quick, small or paper" ;;
esac
GPU=$(nvidia-smi -L 2>/dev/null | grep -c GPU)
if [ "$GPU" -gt 0 ] || [ "$DRY" ]; then : "${JOBS:=1}"; else : "${JOBS:=2}"; fi
[[ $SEEDS,$JOBS =~ ^[1-9][0-9]*,[1-9][0-9]*$ ]] || stop "--seeds and --jobs: whole numbers from 1"
MINE=${SYNTHETIC##*/}           # names the arms, if it is a plain word that is no other arm's
case $MINE in *[!A-Za-z0-9]*|real|classical|shuffled|alone|dermagan) MINE=mine ;; esac
# With a CPU's bfloat16 units a DCGAN of width 16 is 1.5 times as fast, a WGAN-GP not; on an H200 it was 0.9 times.
if [ "$GPU" -eq 0 ] && grep -q avx512_bf16 /proc/cpuinfo 2>/dev/null; then BF16="--precision bf16"; fi
cd "$(dirname "$0")" || exit
: "${OUT:=results/$SCALE${DATA:+-$(basename "$DATA")}}"; OUT+=${DRY:+-dry}
if [ -z "$CHOSEN" ] && [ "$DATA" ] && [ ! -d "$DATA/isic2019" ] && [ ! -d "$DATA/ham10000" ]; then
  CHOSEN=${STUDIES//acgan_cyclegan dermagan /}
  echo "$DATA has no isic2019 or ham10000: without the eight classes that acgan_cyclegan and dermagan need" >&2
fi
if [ "$COMMAND" = list ]; then list; exit; fi
find_python
case $COMMAND in
  test) exec $PYTHON -m pytest -q tests ;;
  run) experiments | $PYTHON jobs.py --out "$OUT" --jobs $JOBS --scale $SCALE ${DATA:+--data "$DATA"} $DRY; status=$?
       if [ "$DRY" ] || [ $status = 130 ]; then exit $status; fi ;;
esac
$PYTHON report.py "$OUT" && exit $status
