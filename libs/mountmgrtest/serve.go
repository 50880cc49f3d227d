package mountmgrtest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/grpcclient"
	"github.com/juicefs-csi/driver/libs/grpcserver"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// Serve serves a mount manager on a unix socket of its own until the test is
// over, with the interceptors of the real one, and returns its endpoint.
func Serve(tb testing.TB, service mountmgrv1.MountManagerServiceServer) string {
	tb.Helper()
	// tb.TempDir is named after the test and may be longer than a socket's path.
	directory, err := os.MkdirTemp("", "mountmgr") //nolint:usetesting // see above
	if err != nil {
		tb.Fatal(err)
	}
	address := endpoint.Endpoint{Network: endpoint.Unix, Address: filepath.Join(directory, "mountmgr.sock")}
	stop := ServeAt(tb, service, address.String())
	tb.Cleanup(func() {
		stop()
		if err := os.RemoveAll(directory); err != nil {
			tb.Error(err)
		}
	})
	return address.String()
}

// ServeAt is Serve at an endpoint of the caller's choice, until stop is called;
// stop may be called again.
func ServeAt(tb testing.TB, service mountmgrv1.MountManagerServiceServer, address string) (stop func()) {
	tb.Helper()
	parsed, err := endpoint.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	// The test's own context ends before its clean-up, which still calls.
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	listener, err := endpoint.Listen(ctx, parsed)
	if err != nil {
		cancel()
		tb.Fatal(err)
	}
	server := grpcserver.New(grpcserver.Options{Name: "fake-mountmgr", Logger: slog.New(slog.DiscardHandler)})
	mountmgrv1.RegisterMountManagerServiceServer(server, service)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener); close(done) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	}
	tb.Cleanup(stop)
	return stop
}

// Dial connects to a mount manager until the test is over.
func Dial(tb testing.TB, address string) mountmgrv1.MountManagerServiceClient {
	tb.Helper()
	connection, err := grpcclient.Dial(address, grpcclient.Options{Name: "mountmgrtest"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := connection.Close(); err != nil {
			tb.Error(err)
		}
	})
	return mountmgrv1.NewMountManagerServiceClient(connection)
}
