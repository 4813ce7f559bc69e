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
#
# Jobs that are done are skipped, jobs that were cut off go on. Studies: wgan_gp.
set -u
STUDIES="wgan_gp"

# ---------------------------------------------------------------------------------------------------------------------
# The experiments. job NAME WHAT-IT-FILLS SECONDS COMMAND: seconds measured on 2 CPU cores with two jobs at once
# (rounded, one figure for real and hybrid arms); - where nobody measured.
# Jobs of one stage do not need each other; a stage needs the ones before it.

wgan_gp() {   # paper 000: WGAN-GP, one per class; CNN, MobileNet and ResNet-18 on real and on real + synthetic images
  local source=("${DATA:-lesions}") gan="" fit=""
  local benign=879 malignant=888 mixed="100 104"     # the paper's synthetic images, and how many of them it tests on
  local t_data=- t_gan=- t_cnn=- t_mobilenet=- t_resnet18=-
  case $SCALE in
    quick) gan="--width 16 --batch 16 --lr 1e-3 --steps 150 --checkpoint-every 50" fit="--epochs 4"
           benign=235 malignant=285 mixed="26 33"      # in the paper's proportion to 960 built-in images
           t_data=4 t_gan=40 t_cnn=14 t_mobilenet=16 t_resnet18=28
           [ "$DATA" ] || source=(lesions --n 960) ;;
    small) gan="--width 32 --lr 2e-4 --steps 1500 $BF16" fit="--epochs 15"
           t_data=7 t_gan=1850 t_cnn=130 t_mobilenet=180 t_resnet18=440
           [ "$DATA" ] || source=(lesions --n 3297) ;;
    paper) [ "$DATA" ] || source=(lesions --n 3297) ;;
  esac
  stage "networks and images"
  job networks       T1,T2,T3      4       gan.py describe wgan_gp
  job data           F1            $t_data data.py prepare "${source[@]}" --binary --size 64
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

# ---------------------------------------------------------------------------------------------------------------------
# The job list and its runner

NAMES=() FILLS=() TIMES=() STAGES=() COMMANDS=() STAGE=0 STAGE_TITLES=("")

stage() { STAGE=$((STAGE + 1)); STAGE_TITLES[STAGE]="$STUDY: $1"; }

job() {   # job NAME FILLS SECONDS FILE ARGUMENTS...; @other stands for the folder of job `other` of the same study
  local name="$STUDY/$1" fills="$2" seconds="$3" word command="env OMP_NUM_THREADS=$THREADS $PYTHON"; shift 3
  for word in "$@" --out "@${name#*/}"; do
    case $word in @*) word="$OUT/$STUDY/${word#@}" ;; esac
    command+=" $(printf %q "$word")"
  done
  NAMES+=("$name") FILLS+=("$fills") TIMES+=("$seconds") STAGES+=("$STAGE") COMMANDS+=("$command")
}

each_seed() {   # the same job for every seed: NAME-s0, NAME-s1, ...
  local name="$1" seed; shift
  for ((seed = 0; seed < SEEDS; seed++)); do job "$name-s$seed" "$@" --seed "$seed"; done
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
    finished "$k" && continue
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

run_jobs() {
  local s k pid todo line shown=$SECONDS begun=$SECONDS skipped=0
  RUNNING=() BEGUN=()          # by process id: job number; by job number: start time
  SPENT=0 EXPECTED=0 ENDED=0
  for s in $(seq "$STAGE"); do
    todo=()
    for k in "${!NAMES[@]}"; do
      [ "${STAGES[k]}" = "$s" ] || continue
      if finished "$k"; then skipped=$((skipped + 1)) ENDED=$((ENDED + 1)); else todo+=("$k"); fi
    done
    [ ${#todo[@]} = 0 ] && continue
    if [[ $BROKEN == *" ${STAGE_TITLES[s]%%:*} "* ]]; then
      say "not started: ${STAGE_TITLES[s]} (${#todo[@]} jobs), it needs what failed"
      continue
    fi
    say "${STAGE_TITLES[s]}"
    while [ ${#todo[@]} -gt 0 ] || [ ${#RUNNING[@]} -gt 0 ]; do
      while [ ${#todo[@]} -gt 0 ] && [ ${#RUNNING[@]} -lt "$JOBS" ]; do
        start_job "${todo[0]}"
        todo=("${todo[@]:1}")
      done
      sleep 0.2
      for pid in "${!RUNNING[@]}"; do
        if ! kill -0 "$pid" 2>/dev/null; then end_job "$pid"
        elif [ -t 1 ] || [ $((SECONDS - shown)) -ge 60 ]; then   # the job's own last line: live, or each minute
          k=${RUNNING[$pid]} shown=$SECONDS
          line=$(tail -n 1 "$OUT/${NAMES[k]}/log.txt" | cut -c1-110)
          line="[$ENDED/${#NAMES[@]}] ${line:-${NAMES[k]} starts}"
          if [ -t 1 ]; then printf '\r\033[K%.*s' "${COLUMNS:-$(tput cols)}" "$line"; else echo "$line"; fi
        fi
      done
    done
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

COMMAND=run SCALE=quick DATA="" OUT="" SEEDS="" JOBS="" CHOSEN=()
while [ $# -gt 0 ]; do
  case $1 in
    --scale|--data|--out|--seeds|--jobs)
      [ $# -ge 2 ] || stop "$1 needs a value (see --help)"
      case $1 in --scale) SCALE=$2 ;; --data) DATA=$2 ;; --out) OUT=$2 ;; --seeds) SEEDS=$2 ;; --jobs) JOBS=$2 ;; esac
      shift ;;
    -h|--help) sed -n '2,/^set -u/s/^# \{0,1\}//p' "$0"; exit 0 ;;
    list|report|test) COMMAND=$1 ;;
    -*) stop "unknown option $1 (see --help)" ;;
    *) case " $STUDIES " in *" $1 "*) CHOSEN+=("$1") ;; *) stop "unknown word $1: give list, report, test or a study ($STUDIES)" ;; esac ;;
  esac
  shift
done
case $SCALE in
  quick) : "${SEEDS:=1}" ;;
  small) : "${SEEDS:=3}" ;;
  paper) : "${SEEDS:=5}" ;;
  *) stop "--scale $SCALE: quick, small or paper" ;;
esac
GPU=$(command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -c GPU)
: "${JOBS:=$([ "${GPU:-0}" -gt 0 ] && echo 1 || echo 2)}"
[[ $SEEDS =~ ^[1-9][0-9]*$ ]] || stop "--seeds $SEEDS: a whole number from 1"
[[ $JOBS =~ ^[1-9][0-9]*$ ]] || stop "--jobs $JOBS: a whole number from 1"
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
for STUDY in ${CHOSEN[*]:-$STUDIES}; do $STUDY; done
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
