#!/bin/sh
# Makes the toy's published repository: sh publish.sh FOLDER. Its commit has the same hash wherever it is made.
set -eu
mkdir -p "$1/src"
cp "$(dirname "$0")"/src/*.py "$1/src"
cd "$1"
git init --quiet --initial-branch=main
git add --all
GIT_AUTHOR_DATE=2026-01-01T00:00:00Z GIT_COMMITTER_DATE=2026-01-01T00:00:00Z \
  git -c user.name=Toy -c user.email=toy@example.org -c commit.gpgsign=false commit --quiet --message=all
git rev-parse HEAD
