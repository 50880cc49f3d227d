// Package local installs the driver from this source tree on a local cluster:
// images without a registry, charts by helm. The end-to-end tests, the
// benchmarks and the demo use it.
package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/juicefs-csi/driver/test/devcluster"
)

const (
	// Namespace is where the driver and the mount pods run.
	Namespace = "kube-system"
	// ReleaseName is the helm release.
	ReleaseName = "juicefs-csi"
	// DefaultClient is the JuiceFS client that mount pods run unless a test
	// says otherwise.
	DefaultClient = "juicedata/mount:ce-v1.4.2"
	// OlderClient is another version that is there.
	OlderClient = "juicedata/mount:ce-v1.3.1"
	// installTimeout is helm's own limit on waiting for the driver's pods.
	installTimeout = "180s"
)

// Tree is a checkout of this repository.
type Tree struct {
	Root string
}

// FindTree looks from the working directory upwards for the checkout.
func FindTree() (Tree, error) {
	dir, err := os.Getwd()
	if err != nil {
		return Tree{}, fmt.Errorf("find the source tree: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return Tree{Root: dir}, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return Tree{}, fmt.Errorf("find the source tree: no go.work in the working directory or above")
		}
		dir = parent
	}
}

// Images are the archives that `make images` has built.
func (t Tree) Images() ([]string, error) {
	archives, err := filepath.Glob(filepath.Join(t.Root, "dist", "images", "*.tar"))
	if err == nil && len(archives) == 0 {
		err = fmt.Errorf("no images below %s: run `make images` first", filepath.Join(t.Root, "dist", "images"))
	}
	return archives, err
}

// AppImage is the image of test applications.
func AppImage(release string) string { return "juicefs-csi/demo-app:" + release }

// Install loads the images onto every node and installs or upgrades the charts,
// waiting until the driver is ready. helm is the program; values are given
// as --set.
func (t Tree) Install(ctx context.Context, cluster *devcluster.Cluster, helm string, progress io.Writer, values ...string) error {
	return t.InstallFiles(ctx, cluster, helm, progress, nil, values...)
}

// InstallFiles is Install with files of values, which --set goes over.
func (t Tree) InstallFiles(
	ctx context.Context, cluster *devcluster.Cluster, helm string, progress io.Writer, files []string, values ...string,
) error {
	if err := t.loadImages(ctx, cluster, progress); err != nil {
		return err
	}
	return t.upgrade(ctx, cluster, helm, progress, files, values...)
}

// Upgrade installs the charts with other values, over images that Install has
// loaded.
func (t Tree) Upgrade(ctx context.Context, cluster *devcluster.Cluster, helm string, progress io.Writer, values ...string) error {
	return t.upgrade(ctx, cluster, helm, progress, nil, values...)
}

// ProcessMode are the values that run clients as processes of a node. The nodes
// of a local cluster are namespaces, whose first process is kubelet.
func ProcessMode(cluster *devcluster.Cluster, node string) ([]string, error) {
	kubelet, err := cluster.KubeletPID(node)
	if err != nil {
		return nil, err
	}
	return []string{
		"mountMode=process", "mountmgr.mountMode=process",
		fmt.Sprintf("mountmgr.extraArgs[0]=--process-namespaces=/proc/%d/ns", kubelet),
	}, nil
}

func (t Tree) upgrade(
	ctx context.Context, cluster *devcluster.Cluster, helm string, progress io.Writer, files []string, values ...string,
) error {
	args := []string{
		"upgrade", "--install", ReleaseName, filepath.Join(t.Root, "charts", "juicefs-csi"),
		"--namespace", Namespace, "--wait", "--timeout", installTimeout,
		"--set", "global.defaultMountImage.ce=" + DefaultClient,
	}
	digests, err := t.digests()
	if err != nil {
		return err
	}
	for _, file := range files {
		args = append(args, "--values", file)
	}
	for _, value := range append(digests, values...) {
		args = append(args, "--set", value)
	}
	_, _ = fmt.Fprintln(progress, "installing the charts")
	return run(ctx, helm, cluster.Kubeconfig(), args...)
}

// digests are values that restart the pods of a service whose image has other
// content than before under the same tag.
func (t Tree) digests() ([]string, error) {
	var values []string
	for _, service := range []string{"controller", "node", "mountmgr", "dashboard"} {
		content, err := os.ReadFile(filepath.Join(t.Root, "dist", "images", service+".tar"))
		if err != nil {
			return nil, fmt.Errorf("read image of %s: %w", service, err)
		}
		values = append(values, fmt.Sprintf("%s.annotations.image=sha256-%x", service, sha256.Sum256(content)))
	}
	return values, nil
}

func (t Tree) loadImages(ctx context.Context, cluster *devcluster.Cluster, progress io.Writer) error {
	archives, err := t.Images()
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(progress, "loading %d images onto %d nodes\n", len(archives), len(cluster.Nodes()))
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range cluster.Nodes() {
		group.Go(func() error {
			for _, archive := range archives {
				if err := cluster.LoadImage(ctx, archive, node.Name); err != nil {
					return fmt.Errorf("load %s: %w", filepath.Base(archive), err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// Uninstall removes the release and waits for its pods to go.
func Uninstall(ctx context.Context, cluster *devcluster.Cluster, helm string) error {
	return run(ctx, helm, cluster.Kubeconfig(), "uninstall", ReleaseName, "--namespace", Namespace, "--wait")
}

func run(ctx context.Context, program, kubeconfig string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(program), args[0], err, strings.TrimSpace(output.String()))
	}
	return nil
}
