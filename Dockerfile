# The image for AWS Lambda: the serving runtime, the model, lambda_function.py and the modules that
# lambda_function.py imports. The image contains no training code.
#
# Build the image, run it on this machine, and ask it in another terminal. `make image` runs the
# build with docker, podman or buildah:
#
#   docker buildx build --platform linux/amd64 --provenance=false -t dog-breeds .
#   docker run -it --rm -p 8080:8080 dog-breeds
#   python test.py
#
# Push the image to your registry (ECR). `aws ecr create-repository --repository-name dog-breeds`
# makes the repository once. `make push REMOTE_URI=$REGISTRY/dog-breeds:v1` runs the last three
# lines:
#
#   ACCOUNT=123456789012 REGION=eu-west-1
#   REGISTRY=$ACCOUNT.dkr.ecr.$REGION.amazonaws.com
#   aws ecr get-login-password --region $REGION | docker login --username AWS --password-stdin $REGISTRY
#   docker tag dog-breeds $REGISTRY/dog-breeds:v1
#   docker push $REGISTRY/dog-breeds:v1
#
# Without --provenance=false, buildx writes a manifest that Lambda rejects. For Lambda on Graviton,
# use linux/arm64.
ARG BASE_IMAGE=public.ecr.aws/lambda/python:3.13

# Lambda on arm64 mounts no /sys. LiteRT reads two files there, which list the CPUs. Without these
# files LiteRT leaves out XNNPACK and reports no error: inference is several times slower, and the
# features differ. So the image contains the two files. Where /sys is mounted, as under Docker, the
# real files hide them. They list six CPUs, the most that Lambda gives. The handler counts the CPUs
# that it may use.
FROM ${BASE_IMAGE} AS cpus
RUN echo 0-5 >/possible && cp /possible /present && chmod 644 /possible /present

FROM ${BASE_IMAGE}
COPY --from=cpus /possible /present /sys/devices/system/cpu/
WORKDIR ${LAMBDA_TASK_ROOT}

# The packages lie beside the handler, so that Python finds them before the older packages in
# /var/runtime of AWS's image. pip compiles them to bytecode now, because Lambda's file system is
# read-only. The `rm` removes 53 MB of 157 that no request needs: drivers of accelerators, a
# compiler for them, and tests.
COPY requirements-lambda.lock ./
RUN pip install --no-cache-dir --require-hashes --target . -r requirements-lambda.lock \
    && rm -rf requirements-lambda.lock ai_edge_litert/libLiteRt*.so ai_edge_litert/tools ai_edge_litert/vendors \
       numpy/tests numpy/*/tests \
    && for list in possible present; do \
        grep -qF "/sys/devices/system/cpu/$list" ai_edge_litert/*.so || { \
            echo "ai-edge-litert no longer reads /sys/devices/system/cpu/$list. Find out what it reads instead:" \
                "without that file, the function is slow on arm64. See the stage cpus in Dockerfile." >&2; exit 1; }; done

# What changes often comes last, to reuse the cached layers: first the model, then the code.
ARG MODEL=models/dog_breeds_120.tflite
COPY ${MODEL} ./model.tflite
COPY dog_breeds/__init__.py ./dog_breeds/
COPY dog_breeds/serving ./dog_breeds/serving
COPY lambda_function.py ./
# Lambda runs the handler as another user. A strict umask leaves files that only their owner can
# read, so add the permission.
RUN for file in lambda_function.py dog_breeds/__init__.py dog_breeds/serving/* model.tflite; do \
        case "$(stat -c %a "$file")" in *[4567]) ;; *) chmod a+r "$file" ;; esac; done \
    && python -m compileall -q dog_breeds lambda_function.py

CMD ["lambda_function.lambda_handler"]
