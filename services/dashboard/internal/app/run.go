package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/juicefs-csi/driver/libs/kubelog"
	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/metricsserver"
	"github.com/juicefs-csi/driver/libs/task"
	"github.com/juicefs-csi/driver/libs/version"
	"github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/dashboard/v1/dashboardv1connect"
	"github.com/juicefs-csi/driver/services/dashboard/internal/access"
	"github.com/juicefs-csi/driver/services/dashboard/internal/api"
	"github.com/juicefs-csi/driver/services/dashboard/internal/catalog"
	"github.com/juicefs-csi/driver/services/dashboard/web"
)

// Limits of the HTTP server. Requests are small; answers can be a thousand pods.
const (
	maxRequestBytes = 64 << 10
	readTimeout     = 10 * time.Second
	writeTimeout    = 60 * time.Second
	idleTimeout     = 2 * time.Minute
	stopTimeout     = 5 * time.Second
)

// Run runs the dashboard until ctx ends or a part of it fails.
func Run(ctx context.Context, options Options) error {
	logger := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: options.level()}))
	kubelog.Bridge(logger)
	logger.Info("dashboard starts", logkeys.Release, version.Release(), logkeys.Address, options.Listen)

	config, err := restConfig(options.Kubeconfig)
	if err != nil {
		return fmt.Errorf("find Kubernetes: %w", err)
	}
	config.UserAgent = "juicefs-csi-dashboard/" + version.Release()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make client for %s: %w", config.Host, err)
	}
	pods, err := catalog.New(client, options.DriverName, options.MountNamespace)
	if err != nil {
		return fmt.Errorf("make catalog: %w", err)
	}
	gate := access.Open()
	if options.Auth == authToken {
		gate = access.NewGate(access.TokenReviewer(config), time.Now)
	} else {
		logger.Warn("--auth=none: everybody who reaches the dashboard sees all pods")
	}

	registry := metricsserver.NewRegistry()
	service := &api.Service{
		Catalog: pods, Gate: gate,
		Release: version.Release(), MountNamespace: options.MountNamespace, ReadOnly: options.ReadOnly,
	}
	handler := routes(service, registry, logger)

	group := task.NewGroup(ctx)
	group.Go("catalog", pods.Run)
	group.Go("http", func(ctx context.Context) error { return serve(ctx, options.Listen, handler) })
	return group.Wait()
}

// routes puts the API, the page, the metrics and the health on one port.
func routes(service *api.Service, registry *prometheus.Registry, logger *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(dashboardv1connect.NewDashboardServiceHandler(service,
		connect.WithInterceptors(api.NewObserver(logger, registry)), connect.WithReadMaxBytes(maxRequestBytes)))
	health := metricsserver.Handler(metricsserver.Options{Gatherer: registry, Ready: service.Catalog.Ready})
	mux.Handle("/metrics", health)
	mux.Handle("/healthz", health)
	mux.Handle("/", web.Handler())
	return mux
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// serve serves until ctx ends, HTTP/1.1 and unencrypted HTTP/2, so that gRPC
// clients reach it as well.
func serve(ctx context.Context, address string, handler http.Handler) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: handler, Protocols: protocols,
		ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if server.Shutdown(limit) != nil {
			server.Close() //nolint:errcheck // what is still open is cut on purpose
		}
	})
	err = server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", listener.Addr(), err)
}
