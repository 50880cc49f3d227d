// Package socket keeps a gRPC server reachable at a socket that others may
// remove.
package socket

import (
	"context"
	"time"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/grpcserver"
)

// checkInterval is how soon a removed socket is noticed.
const checkInterval = time.Second

// Serve serves at an endpoint until ctx ends. When the socket file is removed,
// as some do who clean kubelet's directories, it starts again with a new server
// of newServer.
func Serve(ctx context.Context, at endpoint.Endpoint, newServer func() *grpcserver.Server) error {
	for ctx.Err() == nil {
		listener, err := endpoint.Listen(ctx, at)
		if err != nil {
			return err
		}
		present, cancel := whilePresent(ctx, listener)
		err = newServer().Serve(present, listener)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// whilePresent returns a context that ends when the socket file vanishes.
func whilePresent(ctx context.Context, listener *endpoint.Listener) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		ticker := time.NewTicker(checkInterval)
		defer ticker.Stop()
		for !listener.Vanished() {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	}()
	return ctx, cancel
}
