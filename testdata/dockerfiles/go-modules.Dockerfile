FROM golang:1.16
WORKDIR /app
COPY go.mod .
COPY go.sum .
RUN go mod download
COPY main.go .
RUN CGO_ENABLED=0 GOOS=linux go build -o myapp
EXPOSE 8080
CMD ["/app/myapp"]
