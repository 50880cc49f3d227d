package grpcclient

import (
	"context"

	"google.golang.org/grpc/stats"
)

// connects is a stats handler that is told of new connections.
type connects func()

var _ stats.Handler = connects(nil)

// HandleConn implements stats.Handler.
func (c connects) HandleConn(_ context.Context, event stats.ConnStats) {
	if _, ok := event.(*stats.ConnBegin); ok {
		c()
	}
}

// TagConn implements stats.Handler.
func (connects) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (connects) HandleRPC(context.Context, stats.RPCStats) {}

// TagRPC implements stats.Handler.
func (connects) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
