# job.sh train|reindex ARGUMENTS OF `tandem data prepare`: from the source's tables to a published release.
# job.sh promote RELEASE: what new replicas begin with.
#
# train: both stages. reindex: the retriever, its index and the blend, with the language model of the last training.
# A run's folder is named by its Job, so that another try at it goes on where the last one was cut off.
set -eu
what=$1
shift
run=/work/$JOB_NAME
registry=/models/registry

if [ "$what" = promote ]; then
  exec tandem release promote --registry "$registry" "$1"
fi

made() { [ -f "$run/$1/manifest.json" ]; }

# From its checkpoint; exit status 2 says that there is none, or one of other data.
train() {
  part=$1
  shift
  if made "$part"; then return; fi
  status=0
  tandem train "$part" "$@" --data "$run/data" --out "$run/$part" --resume || status=$?
  if [ "$status" -eq 2 ]; then
    status=0
    tandem train "$part" "$@" --data "$run/data" --out "$run/$part" || status=$?
  fi
  return "$status"
}

find /work -mindepth 1 -maxdepth 1 -name "$what-*" -mtime +7 -exec rm -rf {} +
mkdir -p "$run" "$registry"
made data || tandem data prepare "$@" --out "$run/data"
train retriever
if [ "$what" = train ]; then
  train ranker --method "$METHOD" --recipe "$RECIPE" --retriever "$run/retriever"
else
  if ! made ranker; then
    if [ ! -d /work/ranker ]; then
      echo "there is no language model to keep: let the job train end once" >&2
      exit 1
    fi
    rm -rf "$run/copy"
    cp -R /work/ranker "$run/copy"
    mv "$run/copy" "$run/ranker"
  fi
  tandem train blend --data "$run/data" --retriever "$run/retriever" --ranker "$run/ranker"
fi
# The very first release is what the services have been waiting for.
first=--no-promote
if [ ! -f "$registry/current" ]; then first=--promote; fi
tandem release publish --registry "$registry" --data "$run/data" --retriever "$run/retriever" --ranker "$run/ranker" "$first"
if [ "$what" = train ]; then
  rm -rf /work/ranker.next
  cp -R "$run/ranker" /work/ranker.next
  rm -rf /work/ranker
  mv /work/ranker.next /work/ranker
fi
rm -rf "$run"
