package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

const (
	// node is where everything is measured; the other one holds only its part
	// of the driver.
	node = "node-1"
	// patience bounds each wait.
	patience = 2 * time.Minute
	// pause lies between two measurements, so that one does not pay for the
	// work that the one before has left.
	pause = 500 * time.Millisecond
	// settling is how long the cluster is left alone before it is looked at.
	settling = 5 * time.Second
)

// counts are how often things are measured.
type counts struct {
	floor, cold, warm, handOvers, kills int
}

func defaultCounts() counts { return counts{floor: 20, cold: 20, warm: 30, handOvers: 10, kills: 3} }

// options are what flags and environment say.
type options struct {
	dir, output, only, helm, release, kubernetes, cache string
	keep                                                bool
	counts                                              counts
}

// bench is the cluster with the driver, and what was measured so far.
type bench struct {
	options
	tree      local.Tree
	cluster   *devcluster.Cluster
	kube      kubernetes.Interface
	namespace string
	// dataDir is a directory of the machine's disk, the same on all nodes.
	dataDir string
	// program is the load on the disk of the machine.
	program  string
	progress io.Writer
	began    time.Time
	results  []Result
}

// measure starts the cluster unless it runs, installs the driver, measures,
// and takes away what it started.
func measure(ctx context.Context, tree local.Tree, options options) (err error) {
	b := &bench{options: options, tree: tree, progress: os.Stderr, began: time.Now()}
	parts, err := wanted(options.only)
	if err != nil {
		return err
	}
	machine, err := thisMachine()
	if err != nil {
		return err
	}
	running := isRunning(ctx, options.dir)
	defer func() {
		if !running && !options.keep {
			err = errors.Join(err, devcluster.Down(context.WithoutCancel(ctx), options.dir, b.progress))
		}
	}()
	if err := b.setUp(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cleanUp(context.WithoutCancel(ctx))) }()
	if err := b.measureAll(ctx, parts); err != nil {
		return err
	}
	versions, err := b.versions(ctx)
	if err != nil {
		return err
	}
	b.say("measured")
	if options.only != "" {
		return nil
	}
	return Report{Date: b.began.UTC().Format(time.RFC3339), Machine: machine, Versions: versions, Results: b.results}.write(options.output)
}

func isRunning(ctx context.Context, dir string) bool {
	cluster, err := devcluster.Open(dir)
	if err != nil {
		return false
	}
	status, err := cluster.Status(ctx)
	return err == nil && status.Running
}

// part is what can be measured alone.
type part struct {
	name     string
	measures []func(*bench, context.Context) error
}

// parts go from the quiet to the rough: figures of memory need a driver that
// was not restarted, and killed containers are restarted ever more slowly.
func parts() []part {
	type measures = []func(*bench, context.Context) error
	return []part{
		{"publish", measures{(*bench).imageSizes, (*bench).floor, (*bench).coldAndMemory, (*bench).warm}},
		{"at-once", measures{(*bench).atOnce}},
		{"pods", measures{(*bench).densePods}},
		{"processes", measures{(*bench).denseProcesses}},
		{"stalls", measures{(*bench).stalls}},
	}
}

func partNames() string {
	var names []string
	for _, each := range parts() {
		names = append(names, each.name)
	}
	return strings.Join(names, ", ")
}

// wanted are the parts that -only names, or all.
func wanted(only string) ([]part, error) {
	if only == "" {
		return parts(), nil
	}
	at := slices.IndexFunc(parts(), func(p part) bool { return p.name == only })
	if at < 0 {
		return nil, fmt.Errorf("there is no part %q: use one of %s", only, partNames())
	}
	return parts()[at : at+1], nil
}

// measureAll keeps what was measured before a failure.
func (b *bench) measureAll(ctx context.Context, parts []part) error {
	defer func() { printTable(os.Stdout, b.results) }()
	for _, part := range parts {
		for _, measure := range part.measures {
			if err := measure(b, ctx); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
	}
	return nil
}

func (b *bench) setUp(ctx context.Context) error {
	var err error
	b.cluster, err = devcluster.Up(ctx, devcluster.Options{
		Nodes: 2, Dir: b.dir, Redis: true, CacheDir: b.cache, KubernetesVersion: b.kubernetes,
	}, b.progress)
	if err != nil {
		return err
	}
	if err := b.tree.Install(ctx, b.cluster, b.helm, b.progress, installValues()...); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", b.cluster.Kubeconfig())
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 200, 400
	if b.kube, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("connect to the cluster: %w", err)
	}
	if b.dataDir, err = os.MkdirTemp("/var/tmp", "juicefs-bench-"); err != nil {
		return fmt.Errorf("make directory for data: %w", err)
	}
	if err := b.loadImage(ctx); err != nil {
		return err
	}
	b.namespace = "bench-" + rand.String(6)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: b.namespace}}
	if _, err := b.kube.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	return b.fileSystem(ctx)
}

// installValues keep requests small: every node of the cluster believes that it
// has all processors of the machine.
func installValues() []string {
	return []string{
		"globalConfig.mountPodPatch[0].resources.requests.cpu=10m",
		"globalConfig.mountPodPatch[0].resources.requests.memory=32Mi",
	}
}

// cleanUp removes the pods and waits until their volumes are gone.
func (b *bench) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := b.deleteApps(ctx)
	volumes, listErr := b.kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{LabelSelector: "bench=" + b.namespace})
	err = errors.Join(err, listErr, b.kube.CoreV1().Namespaces().Delete(ctx, b.namespace, metav1.DeleteOptions{}))
	if listErr == nil {
		for _, volume := range volumes.Items {
			err = errors.Join(err, b.kube.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, metav1.DeleteOptions{}))
		}
	}
	return errors.Join(err, os.RemoveAll(b.dataDir))
}

// say tells the person in front of the terminal what goes on.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "%4.0fs  "+format+"\n", append([]any{time.Since(b.began).Seconds()}, args...)...)
}

// wait is for time to pass, not for something to happen.
func wait(ctx context.Context, duration time.Duration) error {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func until(ctx context.Context, what string, check func() error) error {
	return local.Until(ctx, patience, 100*time.Millisecond, what, check)
}
