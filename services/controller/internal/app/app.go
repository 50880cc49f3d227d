package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/grpcserver"
	"github.com/juicefs-csi/driver/libs/kubelog"
	"github.com/juicefs-csi/driver/libs/logkeys"
	"github.com/juicefs-csi/driver/libs/metricsserver"
	"github.com/juicefs-csi/driver/libs/task"
	"github.com/juicefs-csi/driver/libs/version"
	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/controller/internal/deletion"
	"github.com/juicefs-csi/driver/services/controller/internal/driver"
	"github.com/juicefs-csi/driver/services/controller/internal/installation"
	"github.com/juicefs-csi/driver/services/controller/internal/provisioner"
)

// Run runs the controller until ctx ends or a part of it fails.
func Run(ctx context.Context, options Options) error {
	logger := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: options.level()}))
	kubelog.Bridge(logger)
	logger.Info("controller starts", logkeys.Release, version.Release(), logkeys.Endpoint, options.Endpoint)

	install := installation.Installation{
		DriverName: options.DriverName,
		ConfigFile: options.ConfigFile,
		Defaults: volume.Defaults{
			CommunityImage:  options.CommunityImage,
			EnterpriseImage: options.EnterpriseImage,
			ServiceAccount:  options.MountServiceAccount,
		}.WithEnvironment(os.Getenv),
	}
	if inputs, err := install.Inputs(); err != nil {
		logger.Error("the driver's ConfigMap is wrong; volumes cannot be made until it is right", logkeys.Error, err)
	} else if unapplied := inputs.Config.Unapplied(); len(unapplied) > 0 {
		logger.Warn("the driver's ConfigMap has settings without effect", logkeys.Keys, unapplied)
	}
	client, err := newClient(options)
	if err != nil {
		return err
	}

	registry := metricsserver.NewRegistry()
	server := grpcserver.New(grpcserver.Options{Name: "csi", Logger: logger, Registry: registry})
	csi.RegisterIdentityServer(server, &driver.Identity{Name: options.DriverName})
	csi.RegisterControllerServer(server, newController(options, install, client))

	at, err := endpoint.Parse(options.Endpoint)
	if err != nil {
		return fmt.Errorf("read --endpoint: %w", err)
	}
	listener, err := endpoint.Listen(ctx, at)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", at, err)
	}

	group := task.NewGroup(ctx)
	group.Go("csi", func(ctx context.Context) error { return server.Serve(ctx, listener) })
	group.Go("metrics", func(ctx context.Context) error {
		return metricsserver.Serve(ctx, metricsserver.Options{Address: options.MetricsAddress, Gatherer: registry})
	})
	if options.Provisioner {
		group.Go("provisioner", func(ctx context.Context) error {
			return runProvisioner(ctx, options, install, client, registry, logger)
		})
	}
	return group.Wait()
}

// newClient is nil, without an error, where there is no Kubernetes and nothing
// needs it.
func newClient(options Options) (kubernetes.Interface, error) {
	config, err := restConfig(options)
	if errors.Is(err, rest.ErrNotInCluster) && !options.Provisioner {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find Kubernetes: %w", err)
	}
	config.QPS, config.Burst = options.QPS, options.Burst
	config.UserAgent = "juicefs-csi-controller/" + version.Release()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client for %s: %w", config.Host, err)
	}
	return client, nil
}

func restConfig(options Options) (*rest.Config, error) {
	if options.Kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", options.Kubeconfig)
}

func newController(options Options, install installation.Installation, client kubernetes.Interface) *driver.Controller {
	controller := &driver.Controller{Installation: install}
	if client != nil {
		controller.Remover = newRemover(options, install, client)
		controller.Lookup = driver.LookupBy(client, options.DriverName)
	}
	return controller
}

func newRemover(options Options, install installation.Installation, client kubernetes.Interface) *deletion.Remover {
	return &deletion.Remover{
		Client:         client,
		Installation:   install,
		Namespace:      options.MountNamespace,
		LauncherImage:  options.MountmgrImage,
		ServiceAccount: options.MountServiceAccount,
	}
}

// runProvisioner makes volumes while this controller is the leader.
func runProvisioner(ctx context.Context, options Options, install installation.Installation,
	client kubernetes.Interface, registry *prometheus.Registry, logger *slog.Logger,
) error {
	volumes := &provisioner.Provisioner{
		Client:       client,
		Installation: install,
		Remover:      newRemover(options, install, client),
		Metrics:      provisioner.NewMetrics(registry, options.NodeName),
	}
	run := func(ctx context.Context) error {
		return provisioner.Run(ctx, volumes, provisioner.RunOptions{Workers: options.Workers, Registry: registry})
	}
	if !options.LeaderElection {
		return run(ctx)
	}
	// A lease must be renewed however busy the workers are, so it has a client
	// with a rate limit of its own.
	leases, err := newClient(options)
	if err != nil {
		return err
	}
	return lead(ctx, options, leases, logger, run)
}
