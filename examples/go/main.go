// Classifies image files: examples/go/classify [ADDRESS]
//
// To build it, with protoc, protoc-gen-go and protoc-gen-go-grpc: go generate && go mod tidy && go build
package main

//go:generate protoc --proto_path=../.. --go_out=. --go-grpc_out=. --go_opt=module=digits.example/classify --go-grpc_opt=module=digits.example/classify --go_opt=Mprotos/digits/v1/digits.proto=digits.example/classify/digits --go-grpc_opt=Mprotos/digits/v1/digits.proto=digits.example/classify/digits protos/digits/v1/digits.proto

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"digits.example/classify/digits"
)

// gRPC repeats a call that found no server, or one that was stopping.
const retries = `{"methodConfig": [{
	"name": [{"service": "digits.v1.DigitClassifierService"}],
	"retryPolicy": {
		"maxAttempts": 5,
		"initialBackoff": "0.1s",
		"maxBackoff": "2s",
		"backoffMultiplier": 3,
		"retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]
	}
}]}`

func classify(address string) error {
	paths, err := filepath.Glob("serving/samples/*.png")
	if err != nil {
		return err
	}
	images := &digits.EncodedImages{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		images.Images = append(images.Images, content)
	}

	connection, err := grpc.NewClient(
		address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(retries),
	)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := digits.NewDigitClassifierServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	model, err := client.GetModel(ctx, &digits.GetModelRequest{})
	if err != nil {
		return err
	}
	request := &digits.ClassifyRequest{Images: &digits.ClassifyRequest_EncodedImages{EncodedImages: images}}
	answer, err := client.Classify(ctx, request)
	if err != nil {
		return err
	}
	for i, path := range paths {
		fmt.Printf("%s  %s  %.2f%%\n", path, model.Labels[answer.Labels[i]], 100*answer.Confidences[i])
	}
	return nil
}

func main() {
	address := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if err := classify(address); err != nil {
		failed := status.Convert(err)
		fmt.Fprintf(os.Stderr, "%s: %s: %s\n", address, failed.Code(), failed.Message())
		os.Exit(1)
	}
}
