package grpcclient

import (
	"context"
	"errors"
	"io"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
)

// nativeUnary gives callers errors that errors.Is understands.
func nativeUnary(
	ctx context.Context, method string, request, response any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	return native(invoke(ctx, method, request, response, connection, opts...))
}

func nativeStream(
	ctx context.Context, desc *grpc.StreamDesc, connection *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	result, err := stream(ctx, desc, connection, method, opts...)
	if err != nil {
		return nil, native(err)
	}
	return &clientStream{ClientStream: result}, nil
}

type clientStream struct{ grpc.ClientStream }

// RecvMsg returns io.EOF at the end of the stream.
func (s *clientStream) RecvMsg(message any) error { return native(s.ClientStream.RecvMsg(message)) }

// SendMsg returns io.EOF when the stream has ended; RecvMsg tells why.
func (s *clientStream) SendMsg(message any) error { return native(s.ClientStream.SendMsg(message)) }

func native(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return errgrpc.ToNative(err)
}
