# The image for AWS Lambda: the serving runtime, the model and lambda_function.py, nothing else.
#
# Build and try it here:
#   docker buildx build --platform linux/amd64 --provenance=false -t dog-breeds .
#   docker run -it --rm -p 8080:8080 dog-breeds
#   python test.py                                       # in another terminal
#
# Send it to the registry (once before: aws ecr create-repository --repository-name dog-breeds):
#   ACCOUNT=123456789012 REGION=eu-west-1
#   REGISTRY=$ACCOUNT.dkr.ecr.$REGION.amazonaws.com
#   aws ecr get-login-password --region $REGION | docker login --username AWS --password-stdin $REGISTRY
#   docker tag dog-breeds $REGISTRY/dog-breeds:v1
#   docker push $REGISTRY/dog-breeds:v1
#
# --provenance=false: Lambda rejects the manifest that buildx writes otherwise.
ARG BASE_IMAGE=public.ecr.aws/lambda/python:3.13
FROM ${BASE_IMAGE}

COPY requirements-lambda.txt .
RUN pip install --no-cache-dir --compile -r requirements-lambda.txt

ARG MODEL=top_10_dog_breeds.tflite
COPY ${MODEL} top_10_dog_breeds.tflite
COPY lambda_function.py .
RUN python -m compileall -q lambda_function.py

CMD ["lambda_function.lambda_handler"]
