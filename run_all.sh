#!/usr/bin/env bash
# Every table and figure of the studies named below, one job per line, in the order of the papers' tables.
#
#   bash run_all.sh [STUDY ...]           every job of the named studies (default: all), then the report
#   bash run_all.sh list [STUDY ...]      every job: state, seconds, stage, name, cells it fills, command; runs nothing
#   bash run_all.sh report                rebuild the report from what is there
#   bash run_all.sh test                  the tests
#
#   --scale quick|small|paper   minutes on a laptop (default); real data on a CPU; the papers' own sizes and epochs
#   --data DIR                  the real data sets; without it the built-in lesions
#   --out DIR                   results folder (default results/SCALE, with --data results/SCALE-DIR)
#   --seeds N                   classifiers per arm (default 1, 3, 5 by scale)
#   --jobs N                    jobs at once (default 2 on a CPU, 1 on a GPU)
#   --weights none              networks that a paper takes pretrained start from random weights (always so at quick scale)
#
# Jobs that are done are skipped, jobs that were cut off go on. Studies:
# wgan_gp dcgan_cls acgan_cyclegan dermagan dcgan_inception (one per paper), controls (what one GAN image is worth).
set -u
STUDIES="wgan_gp dcgan_cls acgan_cyclegan dermagan dcgan_inception controls"

# ---------------------------------------------------------------------------------------------------------------------
# The experiments. job NAME WHAT-IT-FILLS SECONDS COMMAND: seconds measured on 2 CPU cores with two jobs at once
# (rounded, one figure for real and hybrid arms); - where nobody measured.
# A job needs the earlier stages of its study; jobs of one stage, and of different studies, do not need each other.

wgan_gp() {   # paper 000: WGAN-GP, one per class; CNN, MobileNet and ResNet-18 on real and on real + synthetic images
  local gan="" fit="" n=3297
  local benign=879 malignant=888 mixed="100 104"     # the paper's synthetic images, and how many of them it tests on
  local t_data=- t_gan=- t_cnn=- t_mobilenet=- t_resnet18=-
  case $SCALE in
    quick) gan="--width 16 --batch 16 --lr 1e-3 --steps 60 --checkpoint-every 30" fit="--epochs 3" n=480
           benign=118 malignant=142 mixed="13 16"      # in the paper's proportion to 480 built-in images
           t_data=3 t_gan=30 t_cnn=10 t_mobilenet=12 t_resnet18=20 ;;
    small) gan="--width 32 --lr 2e-4 --steps 1500 $BF16" fit="--epochs 15"
           t_data=7 t_gan=1850 t_cnn=130 t_mobilenet=180 t_resnet18=440 ;;
  esac
  stage "networks and images"
  job networks       T1,T2,T3      4       gan.py describe wgan_gp
  job data           F1            $t_data data.py prepare "${DATA:-lesions}" --for wgan_gp $(built_in $n) --size 64
  stage "GANs and classifiers on real images"
  job gan_benign     F2:benign     $t_gan  gan.py train wgan_gp --data @data --class benign --samples $benign $gan
  job gan_malignant  F2:malignant  $t_gan  gan.py train wgan_gp --data @data --class malignant --samples $malignant $gan
  each_seed cnn_real       T4:CNN        $t_cnn       classify.py train cnn --data @data $fit
  each_seed mobilenet_real T4:MobileNet  $t_mobilenet classify.py train mobilenet --data @data $fit
  each_seed resnet18_real  T4:ResNet-18  $t_resnet18  classify.py train resnet18 --data @data $fit
  stage "classifiers on real and synthetic images"
  local hybrid="--data @data --synthetic @gan_benign @gan_malignant --mixed-test $mixed $fit"
  each_seed resnet18_hybrid  T5:ResNet-18,T6,F3 $t_resnet18  classify.py train resnet18 $hybrid
  each_seed mobilenet_hybrid T5:MobileNet,T7,F4 $t_mobilenet classify.py train mobilenet $hybrid
  each_seed cnn_hybrid       T5:CNN,T8,F5       $t_cnn       classify.py train cnn $hybrid
}

dcgan_cls() {   # paper 001: a DCGAN on filtered images; its discriminator becomes the classifier
  local n=3297 gan="" plain="" lapgan="" fit="" samples=1300 net=inception
  local t_data=- t_gan=- t_plain=- t_lapgan=- t_fit=- t_probe=- t_fid=-
  case $SCALE in
    quick) n=480 samples=160 gan="--width 16 --steps 40" plain="--width 300 --steps 100" lapgan="--width 16 --steps 12"
           fit="--width 16 --steps 12"
           t_data=7 t_gan=24 t_plain=16 t_lapgan=21 t_fit=6 t_probe=5 t_fid=3 ;;
    small) samples=600 gan="--width 32 --steps 500 $BF16" plain="--steps 500 $BF16" lapgan="--width 32 --steps 250 $BF16"
           fit="--width 32 --epochs 12 $BF16"
           t_data=11 t_gan=300 t_plain=210 t_lapgan=420 t_fit=60 t_probe=30 t_fid=8 ;;
  esac
  [ -z "$SCRATCH" ] || net=@base_scratch-s0       # not the DCGAN's own discriminator, which would judge it kindly
  stage "images"
  job data F5,F6,F7,F8 $t_data data.py prepare "${DATA:-lesions}" --for dcgan_cls $(built_in $n) --size 64 --enhance --resplit --test 0.2581
  stage "GANs"
  local dcgan="gan.py train dcgan_cls --data @data --samples $samples $gan"
  job dcgan_base     F11-to-15,F16 $t_gan    $dcgan
  job dcgan_batch100 -             $t_gan    $dcgan --batch 100
  job dcgan_lr1e3    -             $t_gan    $dcgan --lr 0.001
  job dcgan_sgd      -             $t_gan    $dcgan --optimizer sgd
  job plain_gan      -             $t_plain  gan.py train plain_gan --data @data --samples $samples $plain
  job lapgan         -             $t_lapgan gan.py train lapgan --data @data --samples $samples $lapgan
  stage "the discriminator as classifier"
  local trunk="classify.py train trunk --data @data $fit"
  each_seed base         T2:128,T3:0.0002,T4:Adam,T5,ours:pretrained-in-the-DCGAN,F17,F18 $t_fit $trunk --from @dcgan_base
  each_seed batch100     T2:100   $t_fit   $trunk --from @dcgan_batch100 --batch 100
  each_seed lr1e3        T3:0.001 $t_fit   $trunk --from @dcgan_lr1e3 --lr 0.001
  each_seed sgd          T4:SGD   $t_fit   $trunk --from @dcgan_sgd --optimizer sgd
  each_seed base_scratch ours:random-weights              $t_fit   $trunk
  each_seed base_probe   ours:frozen-with-a-linear-head   $t_probe $trunk --from @dcgan_base --probe
  stage "distances of the GAN images"
  job fid            T6      $t_fid classify.py score $net @dcgan_base @plain_gan @lapgan --data @data
}

acgan_cyclegan() {   # paper 002: ACGAN from noise, a CycleGAN per class upon it, CycleGANs from nevus to melanoma
  local n=25331 px=256 acgan="--size 128" resnet="--size 256" limit=""
  local cyclegan="--size 256 --steps 30000 --checkpoint-every 2000 $BF16"       # 200 epochs of each class are 15 million steps
  local t_data=- t_acgan=- t_cyclegans=- t_nv2mel=- t_resnet=- t_row5=- t_row8=- t_rank=-
  case $SCALE in
    quick) n=480 px=32
           [ -z "$DATA" ] || limit="--limit NV=60 MEL=60 BCC=60 BKL=60 AK=60"
           acgan="--size 32 --width 16 --batch 32 --steps 150" cyclegan="--size 32 --width 16 --blocks 2 --batch 2 --steps 30"
           resnet="--size 32 --width 16 --batch 16 --steps 6"
           t_data=3 t_acgan=14 t_cyclegans=24 t_nv2mel=7 t_resnet=16 t_row5=10 t_row8=13 t_rank=5 ;;
    small) px=64 limit="--limit NV=600 MEL=300 BCC=250 BKL=250"     # leaves 1,984 images of HAM10000
           t_data=4 t_acgan=1100 t_cyclegans=1600 t_nv2mel=120 t_resnet=60 t_row5=280 t_row8=420 t_rank=6
           acgan="--size 64 --width 32 --batch 32 --steps 3000 $BF16"
           cyclegan="--size 64 --width 32 --blocks 6 --steps 400 $BF16"
           resnet="--size 64 --width 16 --batch 32 --epochs 3 $BF16" ;;     # width 64 takes 2.8 times as long
  esac
  local real="classify.py train resnet50 --data @data $resnet $WEIGHTS" row="--lr-of @isic0-s%"
  local t2="--vary count 2000 4000 8000 16000 24000 --per 20264" t3="--vary count 500 1000 2000 3000 4000 5000 6000 7000 --per 20264"
  local translate="gan.py train cyclegan --source @data --source-class NV --data @rank --class MEL --samples 7000 --per 20264 $cyclegan"
  stage "images"
  job data     T1,F1-and-7:data,F5  $t_data data.py prepare "${DATA:-lesions}" --for acgan_cyclegan $(built_in $n) --size $px --resplit --val 0.1111 --test 0.1 $limit
  stage "ACGAN and the classifier of real images"
  job acgan    F1-and-7:acgan       $t_acgan gan.py train acgan --data @data --samples 24000 --per 20264 $acgan
  each_seed isic0 T2:ISIC-0,T3:ISIC-0 $t_resnet $real
  stage "CycleGANs upon the ACGAN, ranking of the melanomas"
  job cyclegan F1-and-7:cyclegan    $t_cyclegans gan.py train cyclegan --source @acgan --data @data --each-class --samples all $cyclegan
  job rank     -                    $t_rank  classify.py rank @isic0-s0 --data @data --class MEL
  each_seed acgan_row    T2:acgan    $t_row5 $real $row --synthetic @acgan $t2
  stage "CycleGANs from nevus to melanoma"
  each_seed cyclegan_row T2:cyclegan $t_row5 $real $row --synthetic @cyclegan $t2
  job nv2mel_8 F8:nv2mel_8 $t_nv2mel $translate --keep 0.125
  job nv2mel_4 F8:nv2mel_4 $t_nv2mel $translate --keep 0.25
  job nv2mel_2 F8:nv2mel_2 $t_nv2mel $translate --keep 0.5
  job nv2mel_1 F8:nv2mel_1 $t_nv2mel $translate
  stage "classifiers with melanomas made of nevi"
  each_seed row_8 T3:1/8 $t_row8 $real $row --synthetic @nv2mel_8 $t3
  each_seed row_4 T3:1/4 $t_row8 $real $row --synthetic @nv2mel_4 $t3
  each_seed row_2 T3:1/2 $t_row8 $real $row --synthetic @nv2mel_2 $t3
  each_seed row_1 T3:1   $t_row8 $real $row --synthetic @nv2mel_1 $t3
}

dermagan() {   # paper 003: a GAN per class; text, code: as the paper says, as its notebooks do; fair: equal steps, no leak
  local n=3952 samples=100 gan="" code="--batch 16 --lr 1e-4" size="" p net model
  local text="--epochs 100" fair="--steps 3000" nets="--steps 3000"         # fair: about 100 epochs for both
  local real_code="--steps 2650" gan_code="--steps 3300" nets_code="--steps 3300"   # what the notebooks' generators gave
  local t_data=- t_gan=- t_cnn=- t_net=- t_dropout=-
  case $SCALE in
    quick) n=480 samples=20 size="--size 32" gan="--width 16 --z-dim 64 --steps 100 --batch 16 --lr 1e-3" code=$gan
           text="--steps 12" fair="--steps 12" nets="--steps 3" real_code="--steps 12" gan_code="--steps 15" nets_code="--steps 4"
           t_data=3 t_gan=28 t_cnn=8 t_net=8 t_dropout=32 ;;
    small) gan="--width 32 --steps 1200 --batch 16 $BF16"     # with batch 64 and 600 steps 3 of 4 GANs collapsed
           code="--width 32 --steps 1500 $BF16 --batch 16 --lr 1e-4" text="--epochs 15" fair="--steps 300" nets="--steps 40 $BF16"
           real_code="--steps 300" gan_code="--steps 374" nets_code="--steps 60 $BF16" ;;
  esac
  local slow="--lr 2e-4 --beta1 0.5 --batch 64 --augment classical" keras="--lr 1e-3 --beta1 0.9 --batch 30 --augment keras"
  local cnn="classify.py train derma_cnn --data @data" leak="--synthetic @gan_code --allow-leak"
  stage "images"
  job data     F1,F5  $t_data data.py prepare "${DATA:-lesions}" --for dermagan $(built_in $n) --size 64 --resplit --test 0.2024 \
                              --limit MEL=509 BKL=513 AK=456 BCC=498
  stage "GANs and classifiers on real images"
  job gan      F7:gan  $t_gan gan.py train dermagan --data @data --each-class --samples $samples $gan
  job gan_code F7:code $t_gan gan.py train dermagan --data @data --each-class --samples $samples --leak --latents 5 $code
  each_seed cnn_real_text T2:without-GAN-images:text $t_cnn $cnn $slow $text
  each_seed cnn_real_code T2:without-GAN-images:code $t_cnn $cnn $keras $real_code
  each_seed cnn_real_fair T2:without-GAN-images:fair $t_cnn $cnn $slow $fair
  stage "classifiers with GAN images"
  each_seed cnn_gan_text T2:with-GAN-images:text,F9:cnn_gan_text,F10 $t_cnn $cnn $slow $text --synthetic @gan
  each_seed cnn_gan_code T2:with-GAN-images:code,T3:Proposed-model:code,F9:cnn_gan_code $t_cnn $cnn $keras $gan_code $leak
  each_seed cnn_gan_fair T2:with-GAN-images:fair,T3:Proposed-model:fair,F6,F9:cnn_gan_fair $t_cnn $cnn $slow $fair --synthetic @gan
  for net in mobilenet=MobileNet=mobilenet_flat mobilenet_v2=MobileNetV2=mobilenet_v2 resnet50=ResNet50=resnet50_flat \
             vgg16=VGG16=vgg16 vgg19=VGG19=vgg19; do
    IFS== read -r p net model <<< "$net"
    each_seed ${p}_fair T3:$net:fair $t_net classify.py train $model --data @data --synthetic @gan $slow $nets $size $WEIGHTS
    each_seed ${p}_code T3:$net:code $t_net classify.py train $model --data @data $leak $keras $nets_code --input unit --augmented-test $size $WEIGHTS
  done
  job dropout  F8 $t_dropout $cnn $slow $text --synthetic @gan --vary dropout 0 0.1 0.2 0.3 0.4 0.5
}

dcgan_inception() {   # paper 004: a DCGAN of malignant images fills the smaller class; Inception V3
  local n=16194 limit="" full=299 gan="" fit="" net=inception snapshots=2000
  local t_data=- t_gan=- t_fit=- t_fid=-
  case $SCALE in
    quick) n=480 full=80 snapshots=48 gan="--width 16 --batch 32 --steps 96 --lr 1e-3" fit="--size 80 --batch 8 --steps 12"
           t_data=4 t_gan=20 t_fit=11 t_fid=16 ;;
    small) full=96 snapshots=500 gan="--width 32 --steps 800 $BF16" fit="--size 96 --batch 32 --epochs 3 $BF16" ;;
    paper) fit="--size 299" ;;
  esac
  [ "$DATA" ] || limit="--limit malignant=$((n * 5 / 12))"      # the paper's ratio of malignant to benign images is 0.83
  [ -z "$SCRATCH" ] || net=@original_64-s0
  local prepare=(data.py prepare "${DATA:-lesions}" --for dcgan_inception $(built_in $n) $limit --resplit --val 0.1111 --test 0.1)
  local inception="classify.py train inception --data @data_full $fit $WEIGHTS"
  stage "images"
  job data      F7:data  $t_data "${prepare[@]}" --size 64
  job data_full F1       $t_data "${prepare[@]}" --size $full
  stage "the DCGAN and classifiers on real images"
  job dcgan     F5,F7:dcgan $t_gan gan.py train dcgan_inception --data @data --class malignant --samples balance --snapshots $snapshots $gan
  each_seed original    T1,T3:original,F3:original $t_fit $inception
  each_seed original_64 T1:64,T3:original:64,F3:original_64 $t_fit $inception --through 64
  stage "classifiers with GAN images"
  each_seed augmented    T2,T3:augmented,F4:augmented $t_fit $inception --synthetic @dcgan
  each_seed augmented_64 T2:64,T3:augmented:64,F4:augmented_64 $t_fit $inception --synthetic @dcgan --through 64
  job fid_curve F6 $t_fid classify.py score $net --data @data --class malignant --over-steps @dcgan
}

controls() {   # ours: what is one GAN image worth? All arms make the same steps and are tested on the same real images
  # The training part is the 200 %. Of 25, 50 and 100 % the rest is held back, so that the real arm of the next size
  # shows what as many further real images would give.
  local n=25331 limit="" fit="--steps 20000 --batch 32 $BF16" size share gan net arms
  local wgan_gp="--width 64 --steps 20000" dcgan="--steps 20000 $BF16" acgan="--size 64 --steps 40000 $BF16"
  local cyclegan="--size 64 --blocks 6 --steps 20000 $BF16" dermagan=$dcgan
  local t_data=- t_wgan_gp=- t_dcgan=- t_acgan=- t_dermagan=- t_cyclegan=- t_cnn=- t_resnet18=- t_one=- seconds
  local sizes="25=0.125 50=0.25 100=0.5"                # per cent of what is not held back = share of the training part
  local more="resnet18_25=0.125 resnet18_50=0.25"       # and ResNet-18's placebos: at paper scale only
  case $SCALE in
    quick) n=960 fit="--size 32 --steps 24 --batch 16" more=""
           [ -z "$DATA" ] || limit="--limit benign=480 malignant=480"
           wgan_gp="--width 8 --batch 8 --lr 1e-3 --steps 15" dcgan="--width 8 --batch 8 --lr 1e-3 --steps 30" dermagan=$dcgan
           acgan="--size 32 --width 8 --batch 16 --lr 1e-3 --steps 40" cyclegan="--size 32 --width 8 --blocks 2 --steps 12"
           t_data=5 t_wgan_gp=11 t_dcgan=8 t_acgan=7 t_dermagan=9 t_cyclegan=7 t_cnn=22 t_resnet18=38 t_one=8 ;;
    small) limit="--limit benign=1500 malignant=1500" fit="--steps 400 --batch 32 $BF16" more=""
           wgan_gp="--width 32 --batch 16 --lr 2e-4 --steps 300 $BF16" dcgan="--width 32 --batch 32 --steps 500 $BF16"
           dermagan="--width 32 --batch 16 --steps 1000 $BF16" acgan="--size 64 --width 32 --batch 32 --steps 800 $BF16"
           cyclegan="--size 64 --width 32 --blocks 6 --steps 300 $BF16"
           t_data=4 t_wgan_gp=380 t_dcgan=150 t_acgan=200 t_dermagan=150 t_cyclegan=120 t_cnn=480 t_resnet18=650 t_one=40 ;;
  esac
  stage "images"
  job data - $t_data data.py prepare "${DATA:-lesions}" --for controls $(built_in $n) --size 64 --resplit --drop-near --val 0.05 --test 0.4 $limit
  stage "GANs"
  for size in $sizes; do
    share="--data @data --share ${size#*=} --samples all" size=${size%=*}
    job wgan_gp_$size         wgan_gp:$size         $t_wgan_gp  gan.py train wgan_gp         $share --each-class $wgan_gp
    job dcgan_cls_$size       dcgan_cls:$size       $t_dcgan    gan.py train dcgan_cls       $share --each-class $dcgan
    job acgan_$size           acgan:$size           $t_acgan    gan.py train acgan           $share $acgan
    job dermagan_$size        dermagan:$size        $t_dermagan gan.py train dermagan        $share --each-class $dermagan
    job dcgan_inception_$size dcgan_inception:$size $t_dcgan    gan.py train dcgan_inception $share --each-class $dcgan
  done
  stage "CycleGANs upon the ACGANs"
  for size in $sizes; do
    share="--data @data --share ${size#*=} --samples all" size=${size%=*}
    job cyclegan_$size cyclegan:$size $t_cyclegan gan.py train cyclegan --source @acgan_$size $share --each-class $cyclegan
  done
  stage "classifiers"
  for size in cnn_25=0.125 cnn_50=0.25 cnn_100=0.5 cnn_200=1 $more resnet18_100=0.5 resnet18_200=1; do
    share="--data @data --share ${size#*=}" net=${size%=*} size=${net#*_} net=${net%_*} arms="--arm real" seconds=$t_one
    if [ $size != 200 ]; then
      seconds=t_$net seconds=${!seconds}
      arms+=" --arm classical augment=classical --arm copies copies=1"
      for gan in wgan_gp dcgan_cls acgan cyclegan dermagan dcgan_inception; do
        arms+=" --arm $gan synthetic=@${gan}_$size"
        [[ $net$more = resnet18 ]] || arms+=" --arm ${gan}_shuffled shuffle synthetic=@${gan}_$size --arm ${gan}_alone alone synthetic=@${gan}_$size"
      done
    fi
    each_seed ${net}_$size $net:$size $seconds classify.py train $net $share $fit $arms
  done
}

built_in() { [ "$DATA" ] || echo "--n $1"; }      # how many lesions to draw where there are no photographs

# ---------------------------------------------------------------------------------------------------------------------
# The job list and its runner

NAMES=() FILLS=() TIMES=() STAGES=() COMMANDS=() STAGE=0

stage() { STAGE=$((STAGE + 1)); }      # what follows needs the stages before it, of the same study

job() {   # job NAME FILLS SECONDS FILE ARGUMENTS...; @other stands for the folder of job `other` of the same study
  local name="$STUDY/$1" fills="$2" seconds="$3" word command="env OMP_NUM_THREADS=$THREADS $PYTHON"; shift 3
  for word in "$@" --out "@${name#*/}"; do
    case $word in
      @*) word="$OUT/$STUDY/${word#@}" ;;
      synthetic=@*) word="synthetic=$OUT/$STUDY/${word#*@}" ;;
    esac
    printf -v word %q "$word"
    command+=" $word"
  done
  NAMES+=("$name") FILLS+=("$fills") TIMES+=("$seconds") STAGES+=("$STAGE") COMMANDS+=("$command")
}

each_seed() {   # the same job for every seed: NAME-s0, NAME-s1, ...; % stands for the seed
  local name="$1" seed; shift
  for ((seed = 0; seed < SEEDS; seed++)); do job "$name-s$seed" "${@//%/$seed}" --seed "$seed"; done
}

stop() { echo "run_all.sh: $*" >&2; exit 2; }
finished() { [ -f "$OUT/${NAMES[$1]}/result.json" ]; }
measured() { sed -n 's/^ "seconds": \([0-9]*\).*/\1/p' "$OUT/${NAMES[$1]}/result.json"; }

readable() {   # seconds -> "40 s", "12 min", "2.5 h"
  if [ "$1" -lt 100 ]; then echo "$1 s"; elif [ "$1" -lt 6000 ]; then echo "$((($1 + 30) / 60)) min"
  else echo "$(($1 / 3600)).$(($1 % 3600 / 360)) h"; fi
}

list_jobs() {
  printf '%-7s\t%7s\t%s\t%-28s\t%-20s\t%s\n' state seconds stage job fills command
  local k state seconds
  for k in "${!NAMES[@]}"; do
    state=todo seconds="~${TIMES[k]}"
    if [ "${TIMES[k]}" = - ]; then seconds="?"; fi
    if finished "$k"; then state="done" seconds=$(measured "$k"); elif [ -d "$OUT/${NAMES[k]}" ]; then state=begun; fi
    printf '%-7s\t%7s\t%5s\t%-28s\t%-20s\t%s\n' \
      "$state" "$seconds" "${STAGES[k]}" "${NAMES[k]}" "${FILLS[k]}" "${COMMANDS[k]}"
  done
}

time_left() {   # estimate of the jobs still to do, corrected by how fast this machine did the ones of this call
  local k sum=0
  for k in "${!NAMES[@]}"; do
    if finished "$k" || [[ $BROKEN == *" ${NAMES[k]%%/*} "* ]]; then continue; fi
    case ${TIMES[k]} in -) return ;; *) sum=$((sum + TIMES[k])) ;; esac
  done
  [ "$EXPECTED" -gt 0 ] && sum=$((sum * SPENT / EXPECTED))
  [ "$sum" -gt 0 ] && echo ", about $(readable $((sum / JOBS + 1))) left"
}

say() { [ -t 1 ] && printf '\r\033[K'; printf '%s\n' "$*"; }
label() { local n=${#NAMES[@]}; printf '[%*d/%d] %-28s' ${#n} "$ENDED" "$n" "${NAMES[$1]}"; }      # jobs ended / jobs

start_job() {
  local k=$1 log="$OUT/${NAMES[$1]}/log.txt"
  mkdir -p "${log%/*}" || stop "cannot write to $OUT"
  bash -c "exec ${COMMANDS[k]}" >>"$log" 2>&1 </dev/null &
  RUNNING[$!]=$k BEGUN[k]=$SECONDS
}

end_job() {   # end_job PID: its line, and for a failure its last words and how to run it alone
  local k=${RUNNING[$1]} took status log
  wait "$1"; status=$?
  unset "RUNNING[$1]"
  ENDED=$((ENDED + 1))
  took=$((SECONDS - BEGUN[k])) log="$OUT/${NAMES[k]}/log.txt"
  if [ $status = 0 ] && finished "$k"; then
    case ${TIMES[k]} in -) ;; *) SPENT=$((SPENT + took)) EXPECTED=$((EXPECTED + TIMES[k])) ;; esac
    say "$(label "$k") done in $(readable $took)$(time_left)"
  else
    BROKEN+="${NAMES[k]%%/*} "          # the later stages of this study will not be started
    say "$(label "$k") FAILED (exit status $status) after $(readable $took)"
    tail -n 5 "$log" | sed 's/^/    | /'
    echo "    alone:  ${COMMANDS[k]}"
    echo "    log:    $log"
  fi
}

run_jobs() {   # start the first job of the list whose study has no unfinished job of an earlier stage, JOBS at a time
  local k pid line todo=() shown=$SECONDS begun=$SECONDS skipped=0 lowest study stage left=() lost=()
  RUNNING=() BEGUN=()          # by process id: job number; by job number: start time
  SPENT=0 EXPECTED=0 ENDED=0
  for k in "${!NAMES[@]}"; do
    if finished "$k"; then skipped=$((skipped + 1)) ENDED=$((ENDED + 1)); else todo+=("$k"); fi
  done
  while [ ${#todo[@]} -gt 0 ] || [ ${#RUNNING[@]} -gt 0 ]; do
    lowest=" "                                   # " STUDY STAGE " of the earliest unfinished stage of each study
    for k in $(printf '%s\n' "${todo[@]}" "${RUNNING[@]}" | sort -n); do
      study=${NAMES[k]%%/*}
      [[ $lowest == *" $study "* ]] || lowest+="$study ${STAGES[k]} "
    done
    left=()
    for k in "${todo[@]}"; do
      study=${NAMES[k]%%/*} stage=${STAGES[k]}
      if [[ $lowest != *" $study $stage "* ]]; then
        if [[ $BROKEN == *" $study "* ]]; then lost+=("$study"); else left+=("$k"); fi
      elif [ ${#RUNNING[@]} -lt "$JOBS" ]; then start_job "$k"
      else left+=("$k"); fi
    done
    todo=("${left[@]}")
    sleep 0.2
    for pid in "${!RUNNING[@]}"; do
      if ! kill -0 "$pid" 2>/dev/null; then end_job "$pid"
      elif [ -t 1 ] || [ $((SECONDS - shown)) -ge 60 ]; then     # the job's own last line: live, or each minute
        k=${RUNNING[$pid]} shown=$SECONDS
        line=$(tail -n 1 "$OUT/${NAMES[k]}/log.txt" | cut -c1-110)
        line="[$ENDED/${#NAMES[@]}] ${line:-${NAMES[k]} starts}"
        if [ -t 1 ]; then printf '\r\033[K%.*s' "${COLUMNS:-$(tput cols)}" "$line"; else echo "$line"; fi
      fi
    done
  done
  printf '%s\n' "${lost[@]}" | sort | uniq -c | while read -r k study; do
    [ -z "$study" ] || say "$study: $k jobs not started, they need what failed"
  done
  [ $skipped = 0 ] || say "$skipped jobs were done before"
  [ $skipped = ${#NAMES[@]} ] || say "$((ENDED - skipped)) jobs in $(readable $((SECONDS - begun)))"
}

# ---------------------------------------------------------------------------------------------------------------------
# Set-up and command line

find_python() {   # the current Python if it has the packages, else .venv (made on the first call)
  local needed="torch, torchvision, numpy, scipy, PIL"
  if [ "$COMMAND" = test ]; then needed+=", pytest"; fi
  if [ -f .venv/ready ]; then PYTHON=.venv/bin/python; return; fi
  if python3 -c "import $needed" 2>/dev/null; then PYTHON=python3; return; fi
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || stop "Python 3.10 or newer is needed (python3)"
  echo "first run: installing torch, torchvision, numpy, pillow and scipy into .venv (some minutes, about 6 GB)"
  python3 -m venv .venv || stop "python3 -m venv failed: install your system's python3-venv package and start again"
  .venv/bin/python -m pip install $([ -t 1 ] || echo -qq) -r requirements.txt ||
    stop "the installation failed (see above): is there a network? Start again to go on"
  touch .venv/ready
  PYTHON=.venv/bin/python
}

COMMAND=run SCALE=quick DATA="" OUT="" SEEDS="" JOBS="" SCRATCH="" CHOSEN=()
while [ $# -gt 0 ]; do
  if [[ $1 == --*=* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
  case $1 in
    --scale|--data|--out|--seeds|--jobs|--weights)
      [ $# -ge 2 ] || stop "$1 needs a value (see --help)"
      case $1 in --scale) SCALE=$2 ;; --data) DATA=$2 ;; --out) OUT=$2 ;; --seeds) SEEDS=$2 ;; --jobs) JOBS=$2 ;; --weights) SCRATCH=$2 ;; esac
      shift ;;
    -h|--help) sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    list|report|test) COMMAND=$1 ;;
    -*) stop "unknown option $1 (see --help)" ;;
    *) case " $STUDIES " in *" $1 "*) CHOSEN+=("$1") ;; *) stop "unknown word $1: give list, report, test or a study ($STUDIES)" ;; esac ;;
  esac
  shift
done
case $SCALE in
  quick) : "${SEEDS:=1}" "${SCRATCH:=none}" ;;
  small) : "${SEEDS:=3}" ;;
  paper) : "${SEEDS:=5}" ;;
  *) stop "--scale $SCALE: quick, small or paper" ;;
esac
GPU=$(command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -c GPU)
: "${JOBS:=$([ "${GPU:-0}" -gt 0 ] && echo 1 || echo 2)}"
[[ $SEEDS =~ ^[1-9][0-9]*$ ]] || stop "--seeds $SEEDS: a whole number from 1"
[[ $JOBS =~ ^[1-9][0-9]*$ ]] || stop "--jobs $JOBS: a whole number from 1"
case $SCRATCH in ""|none) ;; *) stop "--weights $SCRATCH: only none can be given" ;; esac
WEIGHTS="${SCRATCH:+--weights none}"
[ -z "$DATA" ] || [ -d "$DATA" ] || stop "--data $DATA: no such folder"
here=$(cd "$(dirname "$0")" && pwd)
if [ "$PWD" != "$here" ]; then                    # started from elsewhere: keep the caller's paths right
  [ -z "$DATA" ] || DATA=$(cd "$DATA" && pwd)
  case $OUT in ""|/*) ;; *) OUT=$PWD/$OUT ;; esac
  cd "$here" || exit
fi
: "${OUT:=results/$SCALE${DATA:+-$(basename "$DATA")}}"
CORES=$(nproc 2>/dev/null || sysctl -n hw.ncpu)
THREADS=$((CORES / JOBS > 0 ? CORES / JOBS : 1))     # always the same, since other thread counts round differently
BF16=""      # bfloat16 where the machine has it: a WGAN-GP step of width 32 took 0.79 s without and 0.63 s with it
if [ "${GPU:-0}" -gt 0 ] || grep -q avx512_bf16 /proc/cpuinfo 2>/dev/null; then BF16="--precision bf16"; fi

if [ "$COMMAND" != list ]; then find_python
elif [ ! -f .venv/ready ] && python3 -c 'import importlib.util as u; exit(not u.find_spec("torchvision"))' 2>/dev/null
then PYTHON=python3
else PYTHON=.venv/bin/python; fi       # there, or made by the first run
if [ "$COMMAND" = test ]; then exec $PYTHON -m pytest -q tests; fi
for STUDY in ${CHOSEN[*]:-$STUDIES}; do STAGE=0; $STUDY; done
if [ "$COMMAND" = list ]; then list_jobs; exit; fi
BROKEN=" "
if [ "$COMMAND" = run ]; then
  mkdir -p "$OUT" || stop "cannot write to $OUT"
  if command -v flock >/dev/null; then
    exec 9>"$OUT/.lock"
    flock -n 9 || stop "another run, or a job of a killed one, is still at work in $OUT: wait until it ends"
  fi
  asked="scale $SCALE"$'\n'"data ${DATA:-built-in lesions}"
  [ -f "$OUT/run.txt" ] || echo "$asked" > "$OUT/run.txt"
  [ "$(cat "$OUT/run.txt")" = "$asked" ] ||
    stop "$OUT holds results of $(tr '\n' ' ' < "$OUT/run.txt")but now it is ${asked//$'\n'/ }: give another --out"
  trap 'say "stopped: the same command goes on from the last checkpoints"; kill $(jobs -p) 2>/dev/null; exit 130' INT TERM
  trap 'kill $(jobs -p) 2>/dev/null' EXIT
  run_jobs
fi
$PYTHON metrics.py report "$OUT" || exit
[ "$BROKEN" = " " ]
