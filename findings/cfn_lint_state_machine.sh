#!/usr/bin/env bash
# One would expect: a linter of CloudFormation that checks the definition of a state machine finds a state that does not
# exist, and takes what AWS documents: in JSONata, MaxConcurrency of a Map may be an expression.
# What happens: cfn-lint 1.58.0 finds a StartAt that names no state, but not a Default of a Choice that names none, which AWS
# refuses at deployment. And it refuses the expression, with E3601.
# Why it matters: a number that a template's parameter gives (how many photos a batch asks about at once) reaches the
# definition only as text, so an expression is the way to set it. The rule must then be ignored for the whole definition,
# and a misspelt state comes out at deployment. The npm package asl-validator finds it.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check cfn-lint==1.58.0 2>/dev/null
"$folder/venv/bin/cfn-lint" --version

template() {  # CONCURRENCY DEFAULT START
  cat <<YAML
AWSTemplateFormatVersion: "2010-09-09"
Resources:
  Batch:
    Type: AWS::StepFunctions::StateMachine
    Properties:
      RoleArn: arn:aws:iam::123456789012:role/batch
      Definition:
        QueryLanguage: JSONata
        StartAt: $3
        States:
          HasPhotos:
            Type: Choice
            Choices: [{Condition: "{% \$exists(\$states.input.photos) %}", Next: EachPhoto}]
            Default: $2
          NoPhotos: {Type: Fail}
          EachPhoto:
            Type: Map
            Items: "{% \$states.input.photos %}"
            MaxConcurrency: $1
            ItemProcessor:
              StartAt: Classify
              States: {Classify: {Type: Pass, End: true}}
            End: true
YAML
}

check() {  # NAME ARGUMENTS: what the linter says
  template "${@:2}" >"$folder/$1.yaml"
  found=$("$folder/venv/bin/cfn-lint" --format parseable "$folder/$1.yaml" | cut -d: -f6- || true)
  echo "$1: ${found:-nothing}"
}

right=$(check right 10 NoPhotos HasPhotos)
start=$(check missing_start 10 NoPhotos HasPhotoz)
missing=$(check missing_default 10 NoPhotoz HasPhotos)
expression=$(check expression '"{% 10 %}"' NoPhotos HasPhotos)
printf '%s\n' "$right" "$start" "$missing" "$expression"
[ "$right" = "right: nothing" ] && [[ "$start" == *E3601* ]] && [ "$missing" = "missing_default: nothing" ] &&
  [[ "$expression" == *E3601* ]] ||
  { echo "this has changed"; exit 1; }
