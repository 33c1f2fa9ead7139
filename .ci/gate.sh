#!/usr/bin/env bash
# The gate of a pull request, for any CI: is dvc.lock up to date, did the model forget, and the comment for reviewers.
#
#   bash .ci/gate.sh TARGET OUT     TARGET: revision of the target branch, such as origin/main; OUT: a folder to write to
#
# Writes OUT/comment.md, OUT/junit.xml and OUT/pages, whatever the verdict. Exit code: 0 pass; 1 the model forgot, or dvc.lock is stale;
# 2 cannot compare; 3 something broke or was called wrongly. Works without any secret, as from forks.
#   HOLDFAST_REPRO=1       run first what has changed (needs holdfast[pipeline]); without it, what is committed is checked and read
#   HOLDFAST_AGAINST=1     also compare each arm with itself at TARGET; needs holdfast[report] and a DVC remote that has those evaluations
#   HOLDFAST_TRUSTED_GATE=1        the same, and TARGET decides: its gate settings, its copy of this script, and its Holdfast where the
#                                  repository holds that
#   HOLDFAST_ALLOW_GATE_CHANGE=1   with either: a gate that is looser than TARGET's does not fail
#   HOLDFAST_DVC_CONFIG=   content of .dvc/config.local, or a file of it: the credentials of the DVC remote; removed at the end
#   HOLDFAST_PAGES=https   address where OUT/pages can be had, for the link in the comment
set -uo pipefail
if [ $# -ne 2 ]; then echo "usage: .ci/gate.sh TARGET OUT" >&2; exit 3; fi
target=$1 out=$2
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 3
cd "${HOLDFAST_CHECKOUT:-$(dirname "$0")/..}" || exit 3

if [ "${HOLDFAST_TRUSTED_GATE:-}" = 1 ] && [ -z "${HOLDFAST_CHECKOUT:-}" ]; then
  trusted=$(mktemp -d) && trap 'rm -rf "$trusted"' EXIT || exit 3
  mapfile -t parts < <(git ls-tree --name-only "$target" .ci holdfast)
  git archive "$target" "${parts[@]}" | tar -x -C "$trusted" && [ -f "$trusted/.ci/gate.sh" ] || { echo "no .ci/gate.sh at $target" >&2; exit 3; }
  HOLDFAST_CHECKOUT=$PWD HOLDFAST_TRUSTED_CODE=$trusted${PYTHONPATH:+:$PYTHONPATH} bash "$trusted/.ci/gate.sh" "$target" "$out"
  exit
fi

own=$(dvc root 2>/dev/null)/.dvc/config.local
if [ -n "${HOLDFAST_DVC_CONFIG:-}" ] && [ ! -e "$own" ]; then
  if [ -L "$own" ] || [ -L "${own%/*}" ]; then echo "$own leads elsewhere: no credentials are written there" >&2; exit 3; fi
  trap 'rm -f "$own"' EXIT
  (umask 077 && if [ -f "$HOLDFAST_DVC_CONFIG" ]; then cat "$HOLDFAST_DVC_CONFIG"; else printf '%s\n' "$HOLDFAST_DVC_CONFIG"; fi >"$own") || exit 3
fi
unset HOLDFAST_DVC_CONFIG
cached=(reports/index.html reports/drift/html reports/quality/data_docs) pages=("${cached[@]}" reports/report.md reports/cards)
remote=$(dvc remote list 2>/dev/null)
ran=0 log=
if [ "${HOLDFAST_REPRO:-}" = 1 ]; then
  log=$(dvc repro ${remote:+--pull} 2>&1); ran=$?
  printf '%s\n' "$log"
elif [ -n "$remote" ]; then
  dvc pull --allow-missing "${cached[@]}" || echo "no pages in the remote: the comment goes without them"
fi

lock=$(holdfast check --against "$target" 2>&1); stale=$?
how=(--check); if [ "${HOLDFAST_AGAINST:-}" = 1 ] || [ "${HOLDFAST_TRUSTED_GATE:-}" = 1 ]; then how=(--against "$target"); fi
if [ "${HOLDFAST_ALLOW_GATE_CHANGE:-}" = 1 ]; then how+=(--allow-gate-change); fi
how+=(--junit "$out/junit.xml"); if [ "${GITHUB_ACTIONS:-}" = true ]; then how+=(--github); fi
gate() { GITHUB_STEP_SUMMARY='' PYTHONPATH=${HOLDFAST_TRUSTED_CODE:-${PYTHONPATH:-}} holdfast gate "$@" 2>&1; }  # the comment becomes the summary
verified="The verdict was checked against the thresholds, dvc.lock and its own numbers, not recomputed: no remote has its items."
verdict= code=3
if [ -n "$remote" ]; then
  verdict=$(gate --verify "${how[@]}"); code=$?
  if [ "$code" -ne 3 ]; then verified="The verdict was recomputed from the items of both models."; fi
fi
if [ "$code" -eq 3 ]; then verdict=$(gate "${how[@]}"); code=$?; fi
printf '%s\n' "$lock" "$verdict"
verdict=$(grep -v '^::' <<<"$verdict")  # the annotations were for the forge

said() { printf '\n%s\n\n' "$1"; printf '%s\n' "$2" | tail -n 25 | cut -c1-300 | sed 's/^/    /'; printf '\n'; }
{
  if [ "$ran" -ne 0 ]; then said "## BROKEN: the pipeline stopped" "$log"; fi
  if [ "$stale" -ne 0 ]; then said "## STALE: dvc.lock is not of this code, parameters and data; what follows is of an earlier run" "$lock"; fi
  if [ "$code" -ge 2 ]; then said "## NO VERDICT: what is committed is not the verdict on this branch, or cannot be compared" "$verdict"; fi
  if [ -n "${HOLDFAST_CHECKOUT:-}" ] && [ "$code" -lt 2 ]; then
    said "## $([ "$code" -eq 0 ] && echo PASS || echo FAIL) by the gate of $target; what follows is what the branch's own gate says" "$verdict"
  fi
  holdfast comment --against "$target" ${HOLDFAST_PAGES:+--pages "$HOLDFAST_PAGES"} || said "## No report" "$verdict"
  printf '\n%s\n' "$verified"
} >"$out/comment.md"
for page in "${pages[@]}"; do
  [ -e "$page" ] && mkdir -p "$out/pages/$(dirname "$page")" && cp -R "$page" "$out/pages/$page"
done
if [ -d "$out/pages" ]; then find "$out/pages" -type l -delete; fi  # what is uploaded is of the branch, and never a file outside it
if [ -f "$out/pages/reports/index.html" ]; then holdfast history --page "$out/pages/reports/index.html" || echo "the page goes without its history"; fi
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then cat "$out/comment.md" >>"$GITHUB_STEP_SUMMARY"; fi

if [ "$ran" -ne 0 ] || [ "$stale" -gt 2 ] || [ "$code" -gt 2 ]; then exit 3; fi
if [ "$stale" -ne 0 ]; then exit "$stale"; fi
exit "$code"
