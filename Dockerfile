# The image for AWS Lambda: the serving runtime, the model, lambda_function.py and the modules that it imports, nothing of
# training.
#
# Build it, run it here, and ask it in another terminal (`make image` does the first with docker, podman or buildah):
#
#   docker buildx build --platform linux/amd64 --provenance=false -t dog-breeds .
#   docker run -it --rm -p 8080:8080 dog-breeds
#   python test.py
#
# Send it to your registry (ECR), which `aws ecr create-repository --repository-name dog-breeds` makes once
# (`make push REMOTE_URI=$REGISTRY/dog-breeds:v1` does the three last lines):
#
#   ACCOUNT=123456789012 REGION=eu-west-1
#   REGISTRY=$ACCOUNT.dkr.ecr.$REGION.amazonaws.com
#   aws ecr get-login-password --region $REGION | docker login --username AWS --password-stdin $REGISTRY
#   docker tag dog-breeds $REGISTRY/dog-breeds:v1
#   docker push $REGISTRY/dog-breeds:v1
#
# Without --provenance=false buildx writes a manifest that Lambda rejects. For Lambda on Graviton: linux/arm64.
ARG BASE_IMAGE=public.ecr.aws/lambda/python:3.13

# Lambda on arm64 mounts no /sys. LiteRT reads two files there, which list the CPUs. Without them it leaves XNNPACK out,
# without an error: it is several times slower, and its features differ. So the image has the two files. They are real where
# /sys is mounted, as under Docker. Six is the most CPUs that Lambda gives; the handler counts those that it may use.
FROM ${BASE_IMAGE} AS cpus
RUN echo 0-5 >/possible && cp /possible /present && chmod 644 /possible /present

FROM ${BASE_IMAGE}
COPY --from=cpus /possible /present /sys/devices/system/cpu/
WORKDIR ${LAMBDA_TASK_ROOT}

# Beside the handler, so that they come before the older packages that AWS's image has in /var/runtime. pip compiles
# them to bytecode, which Lambda, where the file system is read-only, could not keep. What is removed, 53 MB of 157, no
# request needs: drivers of accelerators, a compiler for them, tests.
COPY requirements-lambda.lock ./
RUN pip install --no-cache-dir --require-hashes --target . -r requirements-lambda.lock \
    && rm -rf requirements-lambda.lock ai_edge_litert/libLiteRt*.so ai_edge_litert/tools ai_edge_litert/vendors \
       numpy/tests numpy/*/tests \
    && for list in possible present; do \
        grep -qF "/sys/devices/system/cpu/$list" ai_edge_litert/*.so || { \
            echo "ai-edge-litert does not read /sys/devices/system/cpu/$list any longer. Find out what it reads instead:" \
                "without it the function is slow on arm64. See the stage cpus in Dockerfile." >&2; exit 1; }; done

# What changes comes last, the model before the code.
ARG MODEL=models/dog_breeds_120.tflite
COPY ${MODEL} ./model.tflite
COPY dog_breeds/__init__.py ./dog_breeds/
COPY dog_breeds/serving ./dog_breeds/serving
COPY lambda_function.py ./
# Lambda runs as another user, who must be able to read also what a strict umask has kept for its owner.
RUN for file in lambda_function.py dog_breeds/__init__.py dog_breeds/serving/* model.tflite; do \
        case "$(stat -c %a "$file")" in *[4567]) ;; *) chmod a+r "$file" ;; esac; done \
    && python -m compileall -q dog_breeds lambda_function.py

CMD ["lambda_function.lambda_handler"]
