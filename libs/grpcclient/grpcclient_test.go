package grpcclient_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/grpcclient"
	"github.com/juicefs-csi/driver/libs/grpcserver"
)

// serve serves the health service until stop.
func serve(t *testing.T, at endpoint.Endpoint) (address endpoint.Endpoint, stop func()) {
	t.Helper()
	listener, err := endpoint.Listen(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	server := grpcserver.New(grpcserver.Options{Name: "test", Logger: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener); close(done) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return endpoint.Endpoint{Network: at.Network, Address: listener.Addr().String()}, stop
}

func dial(t *testing.T, address endpoint.Endpoint, options grpcclient.Options) *grpc.ClientConn {
	t.Helper()
	connection, err := grpcclient.Dial(address.String(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

func check(ctx context.Context, connection *grpc.ClientConn) error {
	_, err := healthv1.NewHealthClient(connection).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}

func TestDialRefusesWrongTargets(t *testing.T) {
	if _, err := grpcclient.Dial("/plain/path", grpcclient.Options{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

func TestUnixAndTCP(t *testing.T) {
	for _, at := range []endpoint.Endpoint{
		{Network: endpoint.Unix, Address: filepath.Join(t.TempDir(), "s")},
		{Network: endpoint.TCP, Address: "127.0.0.1:0"},
	} {
		address, _ := serve(t, at)
		if err := check(t.Context(), dial(t, address, grpcclient.Options{Name: "test"})); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// Callers wait for a peer that comes up later, and find one that was restarted.
func TestWaitsForThePeer(t *testing.T) {
	at := endpoint.Endpoint{Network: endpoint.Unix, Address: filepath.Join(t.TempDir(), "s")}
	var connects atomic.Int64
	connection := dial(t, at, grpcclient.Options{Name: "test", OnConnect: func() { connects.Add(1) }})
	early := make(chan error, 1)
	go func() { early <- check(t.Context(), connection) }()
	_, stop := serve(t, at)
	if err := <-early; err != nil {
		t.Errorf("call before the peer is there: %v", err)
	}
	stop()
	late := make(chan error, 1)
	go func() { late <- check(t.Context(), connection) }()
	serve(t, at)
	if err := <-late; err != nil && !errdefs.IsUnavailable(err) {
		t.Errorf("call while the peer restarts: %v", err)
	}
	if err := check(t.Context(), connection); err != nil {
		t.Errorf("call after the peer restarted: %v", err)
	}
	if count := connects.Load(); count != 2 {
		t.Errorf("%d connections were told, want 2", count)
	}
}

func TestNoPeer(t *testing.T) {
	at := endpoint.Endpoint{Network: endpoint.Unix, Address: filepath.Join(t.TempDir(), "s")}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := check(ctx, dial(t, at, grpcclient.Options{Name: "test"})); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
