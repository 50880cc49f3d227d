package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/grpcserver"
	"github.com/juicefs-csi/driver/libs/metricsserver"
	"github.com/juicefs-csi/driver/libs/task"
	"github.com/juicefs-csi/driver/libs/volume"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/classic"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/custody"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/kernelmount"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/manager"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/metrics"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/probe"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/server"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/spare"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

// self is this program, also after its file was replaced.
const self = "/proc/self/exe"

// Run serves until ctx ends. The mounts outlive it.
func Run(ctx context.Context, o Options) error {
	env, err := readEnvironment(os.Getenv)
	if err := errors.Join(o.Validate(), err); err != nil {
		return err
	}
	level, err := o.level()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	records, secrets, err := openStore(o)
	if err != nil {
		return err
	}
	defer func() { _ = records.Close() }()
	client, err := kubernetesClient(o, env)
	if err != nil {
		return err
	}
	pods := mountPods(o, client)
	host, err := hosts(o, pods, log)
	if err != nil {
		return err
	}
	registry := metricsserver.NewRegistry()
	learned, err := newSources(ctx, o, env, client, registry, log)
	if err != nil {
		return err
	}
	facts, err := nodeFacts(o, env, learned.config.Config)
	if err != nil {
		return err
	}
	counters, err := metrics.New(registry)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	watch, err := newObservers(o, env, client, counters, log)
	if err != nil {
		return err
	}
	prober := probe.New(self)
	prober.Observe = counters.Probed
	parts := manager.Parts{
		Store: records, Secrets: secrets, Log: log, Metrics: counters,
		Vault:  custody.NewClient(o.VaultSocket, log),
		Host:   host,
		Prober: prober,
		Spares: spare.New(o.spares(watch.spareFailed), records, pods, log),
	}
	if client != nil {
		parts.Classic = classicNode(o, client, parts)
		defer func() { _ = parts.Classic.Close() }()
	}
	learned.complete(&parts)
	watch.complete(&parts)
	mounts := manager.New(facts, parts)
	if err := watch.attach(mounts, records, prober, registry); err != nil {
		return err
	}
	return serve(ctx, o, learned, mounts, watch, registry, log)
}

// openStore opens what the mounts are recorded in, on a prepared node. The
// caller closes the store.
func openStore(o Options) (*store.Store, *store.Secrets, error) {
	if err := prepareNode(o); err != nil {
		return nil, nil, err
	}
	records, err := store.Open(o.StateDir)
	if err != nil {
		return nil, nil, err
	}
	secrets, err := store.OpenSecrets(o.PrivateDir)
	if err != nil {
		return nil, nil, errors.Join(err, records.Close())
	}
	return records, secrets, nil
}

func classicNode(o Options, client kubernetes.Interface, parts manager.Parts) *classic.Node {
	return classic.New(
		classic.Options{
			Node: o.NodeName, Namespace: o.MountNamespace, MountRoot: o.MountRoot, ExchangeDir: o.ExchangeDir, Launcher: o.launcher(),
		},
		classic.Parts{Client: client, Vault: parts.Vault, Prober: parts.Prober, Log: parts.Log},
	)
}

func serve(
	ctx context.Context, o Options, learned sources, mounts *manager.Manager, watch *observers,
	registry *prometheus.Registry, log *slog.Logger,
) error {
	address, err := endpoint.Parse(o.Endpoint)
	if err != nil {
		return err
	}
	listener, err := endpoint.Listen(ctx, address)
	if err != nil {
		return err
	}
	rpc := grpcserver.New(grpcserver.Options{Logger: log, Registry: registry, Name: "mountmgr"})
	mountmgrv1.RegisterMountManagerServiceServer(rpc, server.New(mounts, o.NodeName, o.MountNamespace))
	group := task.NewGroup(ctx)
	learned.run(group)
	group.Go("mounts", mounts.Run)
	watch.run(group)
	group.Go("grpc", func(ctx context.Context) error { return rpc.Serve(ctx, listener) })
	group.Go("metrics", func(ctx context.Context) error {
		return metricsserver.Serve(ctx, metricsserver.Options{
			Address: o.MetricsAddress, Gatherer: registry,
			Ready: watch.health.Check,
		})
	})
	return group.Wait()
}

// prepareNode makes what mounts and mount pods need on this node.
func prepareNode(o Options) error {
	if err := os.MkdirAll(o.MountRoot, 0o755); err != nil { //nolint:gosec // Others pass through it to their mounts.
		return fmt.Errorf("make mount directory: %w", err)
	}
	if err := kernelmount.MountConnections(); err != nil {
		return err
	}
	if err := launch.Install(o.LauncherBinary, o.LauncherDir); err != nil {
		return fmt.Errorf("install jfs-launch for mount pods: %w", err)
	}
	return nil
}

func nodeFacts(o Options, env environment, config func() (volume.Config, error)) (manager.Options, error) {
	bootID, err := manager.BootID()
	if err != nil {
		return manager.Options{}, err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return manager.Options{}, fmt.Errorf("read the kernel's release: %w", err)
	}
	return manager.Options{
		Mode: o.clientMode(), Node: o.NodeName, KubeletDir: o.KubeletDir, LauncherDir: o.LauncherDir, CacheRoots: o.cacheRoots(),
		BootID: bootID, KernelRelease: unix.ByteSliceToString(name.Release[:]), ClassicPods: o.MountPods == classicPods,
		ReconcileInterval: o.ReconcilerInterval, Defaults: o.defaults(env.shareMode), Config: config,
	}, nil
}

func kubeClient(kubeconfig string, env environment) (kubernetes.Interface, error) {
	config, err := rest.InClusterConfig()
	if kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("configure the Kubernetes client: %w", err)
	}
	config.QPS, config.Burst = env.qps, env.burst
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make the Kubernetes client: %w", err)
	}
	return client, nil
}
