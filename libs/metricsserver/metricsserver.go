// Package metricsserver serves a service's metrics and its health over HTTP.
package metricsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/juicefs-csi/driver/libs/version"
)

// Limits of one HTTP exchange and of the server's end.
const (
	readTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second
	readyTimeout = 5 * time.Second
	stopTimeout  = time.Second
)

// NewRegistry makes a registry that has what every service tells: the Go
// runtime, the process, and juicefs_csi_build_info.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "juicefs_csi_build_info",
		Help:        "Always 1; the label is the release of this service.",
		ConstLabels: prometheus.Labels{"release": version.Release()},
	})
	build.Set(1)
	registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// Options says what to serve.
type Options struct {
	// Address is host:port; the host may be empty. Nothing is served when
	// Address is empty.
	Address string
	// Gatherer is what /metrics shows.
	Gatherer prometheus.Gatherer
	// Ready decides /healthz: 200 when it returns nil, else 503 and the
	// error's text, which must not hold secrets. nil is always ready.
	Ready func(context.Context) error
}

// Serve serves until ctx ends.
func Serve(ctx context.Context, options Options) error {
	if options.Address == "" {
		<-ctx.Done()
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", options.Address)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return ServeListener(ctx, listener, options)
}

// ServeListener is Serve on a listener of the caller, which it closes.
func ServeListener(ctx context.Context, listener net.Listener, options Options) error {
	server := &http.Server{
		Handler:      Handler(options),
		ReadTimeout:  readTimeout,
		WriteTimeout: writeTimeout,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if err := server.Shutdown(limit); err != nil {
			server.Close() //nolint:errcheck // what is still open is cut on purpose
		}
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve metrics on %s: %w", listener.Addr(), err)
}

// Handler answers /metrics, /healthz, and /livez, which is 200 as long as the
// process answers: what a restart would not mend is for /healthz alone.
func Handler(options Options) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(options.Gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(response http.ResponseWriter, request *http.Request) {
		if options.Ready != nil {
			ctx, cancel := context.WithTimeout(request.Context(), readyTimeout)
			defer cancel()
			if err := options.Ready(ctx); err != nil {
				http.Error(response, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(response, "ok")
	})
	mux.HandleFunc("GET /livez", func(response http.ResponseWriter, _ *http.Request) { fmt.Fprintln(response, "ok") })
	return mux
}
