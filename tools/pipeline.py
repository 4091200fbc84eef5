#!/usr/bin/env python3
"""pipeline.py FILE NAME=VALUE…: does what a CI service would do with action.yml, or with the hidden job of a GitLab template.

The steps run in a shell in the current directory, their expressions filled in from the inputs or variables given; steps that use
another action are passed over. Prints the outputs that the service would hand on, as JSON.
"""
import json
import os
import re
import subprocess
import sys
import tempfile

import yaml

with open(sys.argv[1]) as file:
    pipeline = yaml.safe_load(file)
given = dict(argument.split("=", 1) for argument in sys.argv[2:])


def lines_of(path):
    with open(path) as file:
        return dict(line.rstrip("\n").split("=", 1) for line in file)


def run(shell, script, environment):
    done = subprocess.run([*shell, script], env={**os.environ, **environment}, stdout=sys.stderr)
    if done.returncode:
        sys.exit(done.returncode)


def github():
    inputs = {name: field.get("default", "") for name, field in pipeline["inputs"].items()}
    unknown, missing = set(given) - set(inputs), [n for n, f in pipeline["inputs"].items() if f.get("required") and n not in given]
    if unknown or missing:
        sys.exit(f"unknown inputs: {sorted(unknown)}, missing: {missing}")
    inputs.update(given)
    outputs = {}

    def filled(text):
        def value(match):
            expression = match.group(1).strip()
            scope, _, name = expression.partition(".")
            if scope == "inputs":
                return inputs[name]
            step = re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+)", expression)
            return outputs[step.group(1)].get(step.group(2), "")
        return re.sub(r"\$\{\{(.*?)\}\}", value, text)

    for step in pipeline["runs"]["steps"]:
        if "uses" in step:
            continue
        with tempfile.NamedTemporaryFile() as output:
            environment = {name: filled(value) for name, value in step.get("env", {}).items()}
            environment["GITHUB_OUTPUT"] = output.name
            environment["GITHUB_STEP_SUMMARY"] = "summary.md"
            # What GitHub calls `shell: bash`.
            run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"], step["run"], environment)
            outputs[step["id"]] = lines_of(output.name)
    return {name: filled(field["value"]) for name, field in pipeline["outputs"].items()}


def gitlab():
    job = pipeline[".coldpress"]
    environment = {"CI_PROJECT_DIR": os.getcwd()}
    for name, value in {**job["variables"], **given}.items():
        environment[name] = re.sub(r"\$(\w+)", lambda match: environment[match.group(1)], value)
    run(["sh", "-e", "-c"], "\n".join(job["script"]), environment)
    for path in job["artifacts"]["paths"]:
        path = re.sub(r"\$(\w+)", lambda match: environment[match.group(1)], path)
        if not os.path.exists(path):
            sys.exit(f"no artifact {path}")
    return lines_of(job["artifacts"]["reports"]["dotenv"])


print(json.dumps(github() if "runs" in pipeline else gitlab()))
