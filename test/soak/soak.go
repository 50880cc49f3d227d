package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

const (
	workerImage = "juicefs-csi/soak-worker:v1"
	// database is the number of the Redis database that the file system takes.
	database = 9
	// patience bounds the waits before and after the soak.
	patience = 5 * time.Minute
)

// run is one soak.
type soakRun struct {
	options
	cluster   *devcluster.Cluster
	kube      kubernetes.Interface
	namespace string
	// dataDir is a directory of the machine's disk: object storage and ledgers.
	dataDir string
	random  *rand.Rand
	began   time.Time
	// failures are what went wrong so far.
	failures []string
	tally    map[string]int
}

// soak sets everything up, runs, checks and takes away.
func soak(ctx context.Context, tree local.Tree, o options) (err error) {
	s := &soakRun{
		options: o, began: time.Now(), tally: make(map[string]int),
		random: rand.New(rand.NewPCG(o.seed, o.seed)), namespace: "soak-" + utilrand.String(6),
	}
	s.say("seed %d", o.seed)
	defer func() {
		if !o.keep {
			err = errors.Join(err, devcluster.Down(context.WithoutCancel(ctx), o.dir, os.Stderr))
		}
	}()
	if err := s.setUp(ctx, tree); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dataDir)) }()
	before, err := local.Traces(ctx, s.cluster, s.kube)
	if err != nil {
		return err
	}
	if err := s.makeVolumes(ctx); err != nil {
		return err
	}
	if err := s.churn(ctx); err != nil {
		return err
	}
	return s.settle(ctx, before)
}

func (s *soakRun) setUp(ctx context.Context, tree local.Tree) error {
	var err error
	s.cluster, err = devcluster.Up(ctx, devcluster.Options{
		Nodes: 2, Dir: s.dir, Redis: true, CacheDir: s.cache, KubernetesVersion: s.kubernetes,
	}, os.Stderr)
	if err != nil {
		return err
	}
	err = tree.Install(ctx, s.cluster, s.helm, os.Stderr,
		"globalConfig.mountPodPatch[0].resources.requests.cpu=10m",
		"globalConfig.mountPodPatch[0].resources.requests.memory=32Mi")
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", s.cluster.Kubeconfig())
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 200, 400
	if s.kube, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("connect to the cluster: %w", err)
	}
	if s.dataDir, err = os.MkdirTemp("/var/tmp", "juicefs-soak-"); err != nil {
		return fmt.Errorf("make directory for data: %w", err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}
	if _, err := s.kube.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	return s.loadWorker(ctx, tree)
}

// loadWorker builds the worker into an image of its own and loads it.
func (s *soakRun) loadWorker(ctx context.Context, tree local.Tree) error {
	program, archive := filepath.Join(s.dataDir, "worker"), filepath.Join(s.dataDir, "worker.tar")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, "./test/soak/worker")
	build.Dir, build.Env = tree.Root, append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the worker: %w: %s", err, bytes.TrimSpace(output))
	}
	var content bytes.Buffer
	image := devcluster.Image{Name: workerImage, Files: map[string]string{"/worker": program}, Dirs: []string{"/data", "/ledgers"}}
	if err := image.Write(&content); err != nil {
		return err
	}
	if err := os.WriteFile(archive, content.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write image of the worker: %w", err)
	}
	return s.cluster.LoadImage(ctx, archive)
}

// say tells the person in front of the terminal what goes on.
func (s *soakRun) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0fs  "+format+"\n", append([]any{time.Since(s.began).Seconds()}, args...)...)
}

// fail notes a failure; the soak goes on, to find others.
func (s *soakRun) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.failures = append(s.failures, text)
	s.say("FAILED: %s", text)
}

func until(ctx context.Context, what string, check func() error) error {
	return local.Until(ctx, patience, 500*time.Millisecond, what, check)
}
