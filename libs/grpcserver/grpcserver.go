// Package grpcserver makes the gRPC servers of this project alike: panics are
// answered, failures are logged once, calls are counted, errors of containerd's
// errdefs become codes, and the health service is there.
package grpcserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	prometheusgrpc "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/juicefs-csi/driver/libs/logkeys"
)

// Limits of a server.
const (
	// stopTimeout is how long running calls may take to end once Serve is told
	// to stop; then they are cut.
	stopTimeout = 5 * time.Second
	// minPing is how often a client may ask whether the server lives.
	minPing = 5 * time.Second
)

// Options says what a server is made of.
type Options struct {
	// Name tells servers of one process apart, in logs and errors: "csi".
	Name string
	// Logger gets one record for each failed call. Needed.
	Logger *slog.Logger
	// Registry gets the metrics of the calls (grpc_server_...). Servers of one
	// process share them. Nil for none.
	Registry prometheus.Registerer
	// TLS is nil for plain text, which is for unix sockets only.
	TLS *tls.Config
	// Unary and Stream run after those of this package, which log, count and
	// map what they return: for authentication.
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor
}

// Server is a gRPC server. Register services on it before Serve.
type Server struct {
	name    string
	logger  *slog.Logger
	server  *grpc.Server
	health  *health.Server
	metrics *prometheusgrpc.ServerMetrics
}

// New makes a server.
func New(options Options) *Server {
	logger := options.Logger.With(logkeys.Server, options.Name)
	metrics, err := serverMetrics(options.Registry)
	if err != nil {
		logger.Error("metrics of calls are not served", logkeys.Error, err)
	}
	report := reporter(logger)
	recovered := recovery.WithRecoveryHandlerContext(onPanic(logger))
	settings := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(append([]grpc.UnaryServerInterceptor{
			metrics.UnaryServerInterceptor(),
			interceptors.UnaryServerInterceptor(report),
			statusUnary,
			recovery.UnaryServerInterceptor(recovered),
		}, options.Unary...)...),
		grpc.ChainStreamInterceptor(append([]grpc.StreamServerInterceptor{
			metrics.StreamServerInterceptor(),
			interceptors.StreamServerInterceptor(report),
			statusStream,
			recovery.StreamServerInterceptor(recovered),
		}, options.Stream...)...),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
	}
	if options.TLS != nil {
		settings = append(settings, grpc.Creds(credentials.NewTLS(options.TLS)))
	}
	server := &Server{
		name: options.Name, logger: logger, metrics: metrics,
		server: grpc.NewServer(settings...), health: health.NewServer(),
	}
	healthv1.RegisterHealthServer(server.server, server.health)
	return server
}

// serverMetrics registers the metrics of calls, or takes those of another
// server of this process. It always returns metrics that can be counted in.
func serverMetrics(registry prometheus.Registerer) (*prometheusgrpc.ServerMetrics, error) {
	metrics := prometheusgrpc.NewServerMetrics(prometheusgrpc.WithServerHandlingTimeHistogram(
		prometheusgrpc.WithHistogramBuckets([]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60})))
	if registry == nil {
		return metrics, nil
	}
	err := registry.Register(metrics)
	if present, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if shared, ok := present.ExistingCollector.(*prometheusgrpc.ServerMetrics); ok {
			return shared, nil
		}
	}
	if err != nil {
		return metrics, fmt.Errorf("register metrics: %w", err)
	}
	return metrics, nil
}

// RegisterService registers a service; generated RegisterXServer functions
// call it.
func (s *Server) RegisterService(description *grpc.ServiceDesc, implementation any) {
	s.server.RegisterService(description, implementation)
	s.health.SetServingStatus(description.ServiceName, healthv1.HealthCheckResponse_SERVING)
}

// SetServing says in the health service whether the server as a whole can do
// its work. It can from the beginning.
func (s *Server) SetServing(serving bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
}

// Serve serves on listener, which it closes, until ctx ends. Then running
// calls have 5 s to end. It returns nil when ctx ended it.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	s.metrics.InitializeMetrics(s.server)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.stop()
	})
	err := s.server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve %s on %s: %w", s.name, listener.Addr(), err)
	}
	return nil
}

// stop ends gracefully as long as the running calls let it.
func (s *Server) stop() {
	s.health.Shutdown()
	cut := time.AfterFunc(stopTimeout, s.server.Stop)
	defer cut.Stop()
	s.server.GracefulStop()
}
