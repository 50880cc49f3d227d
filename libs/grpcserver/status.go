package grpcserver

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// statusUnary is the one place where errors become codes.
func statusUnary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	response, err := handle(ctx, request)
	return response, toStatus(err)
}

func statusStream(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return toStatus(handle(service, stream))
}

// toStatus leaves an error that is a status already as it is. Others get the
// code of their errdefs sentinel or context error, and their text without the
// sentinel's, which the code repeats.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	mapped, ok := status.FromError(errgrpc.ToGRPC(err))
	if !ok {
		mapped = status.New(codes.Unknown, err.Error())
	}
	// The details that errgrpc adds repeat the causes of a joined error, whose
	// text the message has already.
	return status.Error(mapped.Code(), withoutSentinel(err, mapped.Message()))
}

// withoutSentinel removes the text of err's sentinel from the end of message.
// The receiving errgrpc.ToNative puts it back. It tells a conflict from other
// failed preconditions by that text, so such texts stay.
func withoutSentinel(err error, message string) string {
	sentinel := errdefs.Resolve(err)
	if sentinel == nil || errors.Is(sentinel, errdefs.ErrConflict) || errors.Is(sentinel, errdefs.ErrNotModified) {
		return message
	}
	return strings.TrimSuffix(message, ": "+sentinel.Error())
}
