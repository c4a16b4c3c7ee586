FROM golang:alpine AS build-env
ADD . $GOPATH/src/myapp
WORKDIR $GOPATH/src/myapp
RUN go install myapp
FROM alpine
COPY --from=build-env /go/bin/myapp /usr/local/bin/myapp
ENTRYPOINT ["/usr/local/bin/myapp"]
