package main

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

const (
	// dataDir is the directory of the nodes' disk that values-*.yaml name.
	dataDir   = "/var/lib/juicefs-demo"
	namespace = "demo"
	class     = "juicefs-demo"
	// busybox is what Debian's busybox-static installs.
	busybox = "/usr/bin/busybox"
)

//go:embed app.yaml
var appYAML string

type options struct {
	cluster devcluster.Options
	// meta is sqlite or redis.
	meta string
	// helm is the program, app the binary of test/demo/app.
	helm, app string
	// release is the tag of the driver's images.
	release string
}

func (o *options) validate() error {
	if o.meta != "sqlite" && o.meta != "redis" {
		return fmt.Errorf("META=%s: want sqlite or redis", o.meta)
	}
	if o.app == "" {
		return errors.New("no --app: run `make demo`")
	}
	return nil
}

// readerNode is where the second application pod runs: SQLite belongs to one
// node, Redis is shared by all.
func (o *options) readerNode() string {
	if o.meta == "redis" && o.cluster.Nodes > 1 {
		return "node-2"
	}
	return "node-1"
}

func up(ctx context.Context, opts options, out io.Writer) error {
	if err := opts.validate(); err != nil {
		return err
	}
	tree, err := local.FindTree()
	if err != nil {
		return err
	}
	opts.cluster.Redis = opts.meta == "redis"
	d := &demo{options: opts, tree: tree, out: out, start: time.Now()}
	d.title("A cluster of %d nodes on this machine", opts.cluster.Nodes)
	if d.Cluster, err = devcluster.Up(ctx, opts.cluster, out); err != nil {
		return errors.Join(err, errors.New("`make demo-down` takes away what runs"))
	}
	if err := errors.Join(d.writeKubectl(ctx), d.prepareData(ctx)); err != nil {
		return err
	}
	for _, part := range []func(context.Context) error{
		d.install, d.deploy, d.lookAround, d.takeMountPodAway, d.replaceApplications, d.summary,
	} {
		if err := part(ctx); err != nil {
			d.diagnose(context.WithoutCancel(ctx))
			return fmt.Errorf("%w (the cluster still runs; `make demo-down` takes it away)", err)
		}
	}
	return nil
}

// demo is one run.
type demo struct {
	options
	*devcluster.Cluster

	tree  local.Tree
	out   io.Writer
	start time.Time
	// kubectlPath is the wrapper for people.
	kubectlPath string
}

// install loads images and installs the charts as in a user's cluster.
func (d *demo) install(ctx context.Context) error {
	values := filepath.Join("test", "demo", "values-"+d.meta+".yaml")
	d.title("The driver, by its charts and %s", values)
	err := d.tree.InstallFiles(ctx, d.Cluster, d.helm, steps{d}, []string{filepath.Join(d.tree.Root, values)},
		"global.image.tag="+d.release)
	if err != nil {
		return err
	}
	return d.show(ctx, "-n", local.Namespace, "get", "pods", "-l", "app.kubernetes.io/name=juicefs-csi-driver", "-o", placement)
}

// prepareData makes an empty directory for a new cluster. In one that has the
// demo already, the data stay, and so must the metadata engine.
func (d *demo) prepareData(ctx context.Context) error {
	meta, err := d.ask(ctx, "get", "storageclass", class, "--ignore-not-found", "-o", "jsonpath={.metadata.labels.demo}")
	if err != nil {
		return err
	}
	if meta == "" {
		if err := os.RemoveAll(dataDir); err != nil {
			return fmt.Errorf("empty the data directory: %w", err)
		}
	} else if meta != d.meta {
		return fmt.Errorf("the demo runs with META=%s already: `make demo-down` takes it away", meta)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	return nil
}

// deploy applies what a user would write and waits until it runs.
func (d *demo) deploy(ctx context.Context) error {
	d.title("A volume from a claim, and two pods that share it")
	image, err := d.loadApp(ctx)
	if err != nil {
		return err
	}
	manifest := strings.NewReplacer("IMAGE", image, "READER_NODE", d.readerNode()).Replace(comments(appYAML))
	d.command("kubectl", "apply", "-f", "test/demo/app.yaml")
	if err := d.shown(ctx, strings.NewReader(manifest), "apply", "-f", "-"); err != nil {
		return err
	}
	return d.rolledOut(ctx)
}

// comments takes the comment at the top away, which names the placeholders.
func comments(manifest string) string {
	for strings.HasPrefix(manifest, "#") {
		_, manifest, _ = strings.Cut(manifest, "\n")
	}
	return manifest
}

func (d *demo) rolledOut(ctx context.Context) error {
	for _, name := range []string{"writer", "reader"} {
		if _, err := d.ask(ctx, "-n", namespace, "rollout", "status", "deployment/"+name, "--timeout=180s"); err != nil {
			return err
		}
	}
	d.step("both pods run")
	return nil
}

// loadApp makes the image of the applications. Its tag changes with its content.
func (d *demo) loadApp(ctx context.Context) (image string, err error) {
	binary, err := os.ReadFile(d.app)
	if err != nil {
		return "", fmt.Errorf("read the application: %w", err)
	}
	sum := sha256.Sum256(binary)
	spec := devcluster.Image{
		Name:       fmt.Sprintf("juicefs-csi/demo:%x", sum[:6]),
		Files:      map[string]string{"/app": d.app, "/bin/busybox": busybox},
		Links:      map[string]string{},
		Dirs:       []string{"/data", "/tmp"},
		Entrypoint: []string{"/app"},
		Env:        []string{"PATH=/bin"},
	}
	for _, applet := range []string{"cat", "df", "head", "ls", "mount", "ps", "sh", "stat", "tail", "touch", "wc"} {
		spec.Links["/bin/"+applet] = "busybox"
	}
	archive, err := os.CreateTemp("", "juicefs-demo-*.tar")
	if err != nil {
		return "", fmt.Errorf("make the application's image: %w", err)
	}
	defer os.Remove(archive.Name()) //nolint:errcheck // A file in the temporary directory.
	if err := errors.Join(spec.Write(archive), archive.Close()); err != nil {
		return "", err
	}
	return spec.Name, d.LoadImage(ctx, archive.Name())
}
