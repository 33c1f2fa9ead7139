#!/usr/bin/env bash
# The gate of a pull request, for any CI: is dvc.lock up to date, did the model forget, and the comment for reviewers.
#
#   bash .ci/gate.sh TARGET OUT     TARGET: revision of the target branch, such as origin/main; OUT: a folder to write to
#
# Writes OUT/comment.md and OUT/pages, whatever the verdict. Exit code: 0 pass; 1 the model forgot, or dvc.lock is stale;
# 2 cannot compare; 3 something broke or was called wrongly. Needs no secret, so it works from forks.
#   HOLDFAST_REPRO=1       run first what has changed (needs holdfast[pipeline]); without it, what is committed is checked and read
#   HOLDFAST_AGAINST=1     also compare each arm with itself at TARGET; needs holdfast[report] and a DVC remote that has those evaluations
#   HOLDFAST_PAGES=https   address where OUT/pages can be had, for the link in the comment
set -uo pipefail
if [ $# -ne 2 ]; then echo "usage: .ci/gate.sh TARGET OUT" >&2; exit 3; fi
target=$1 out=$2
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 3
cd "$(dirname "$0")/.." || exit 3

cached=(reports/index.html reports/drift/html reports/quality/data_docs) pages=("${cached[@]}" reports/report.md reports/cards)
remote=$(dvc remote list 2>/dev/null)
ran=0 log=
if [ "${HOLDFAST_REPRO:-}" = 1 ]; then
  log=$(dvc repro ${remote:+--pull} 2>&1); ran=$?
  printf '%s\n' "$log"
elif [ -n "$remote" ]; then
  dvc pull --allow-missing "${cached[@]}" || echo "no pages in the remote: the comment goes without them"
fi

lock=$(holdfast check 2>&1); stale=$?
how=(--check); if [ "${HOLDFAST_AGAINST:-}" = 1 ]; then how=(--against "$target"); fi
verdict=$(holdfast gate "${how[@]}" 2>&1); code=$?
printf '%s\n' "$lock" "$verdict"

said() { printf '\n%s\n\n' "$1"; printf '%s\n' "$2" | tail -n 25 | cut -c1-300 | sed 's/^/    /'; printf '\n'; }
{
  if [ "$ran" -ne 0 ]; then said "## BROKEN: the pipeline stopped" "$log"; fi
  if [ "$stale" -ne 0 ]; then said "## STALE: dvc.lock is not of this code, parameters and data; what follows is of an earlier run" "$lock"; fi
  holdfast comment --against "$target" ${HOLDFAST_PAGES:+--pages "$HOLDFAST_PAGES"} || said "## No report" "$verdict"
} >"$out/comment.md"
for page in "${pages[@]}"; do
  [ -e "$page" ] && mkdir -p "$out/pages/$(dirname "$page")" && cp -R "$page" "$out/pages/$page"
done
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then cat "$out/comment.md" >>"$GITHUB_STEP_SUMMARY"; fi

if [ "$ran" -ne 0 ] || [ "$stale" -gt 2 ] || [ "$code" -gt 2 ]; then exit 3; fi
if [ "$code" -eq 0 ]; then exit "$stale"; fi
exit "$code"
