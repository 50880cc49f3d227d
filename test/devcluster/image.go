package devcluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"sort"

	"golang.org/x/sync/errgroup"
)

// pauseImageName is the image of every pod's sandbox. It exists only on the
// nodes: the tag is not latest, so nobody tries to fetch it.
const pauseImageName = "devcluster.invalid/pause:v1"

// LoadImage imports an image archive, in the docker-archive or OCI layout,
// into containerd on the given nodes, or on all nodes when none is given. The
// image has the name that the archive gives it. Use a full name with a tag
// other than latest, otherwise kubelet tries to pull it.
func (c *Cluster) LoadImage(ctx context.Context, archive string, nodes ...string) error {
	targets := c.state.Nodes
	if len(nodes) > 0 {
		targets = nil
		for _, name := range nodes {
			node, err := c.node(name)
			if err != nil {
				return err
			}
			targets = append(targets, node)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range targets {
		group.Go(func() error { return c.loadImage(ctx, node, archive) })
	}
	return group.Wait()
}

// loadImage passes the archive as standard input: a path might mean something
// else in the node's mount namespace.
func (c *Cluster) loadImage(ctx context.Context, node Node, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer f.Close()
	var out bytes.Buffer
	err = execIn(ctx, c.layout.machine(node.Name), Streams{In: f, Out: &out, Err: &out},
		[]string{"ctr", "--address", containerdSocket, "--namespace", "k8s.io", "images", "import", "-"})
	if err != nil {
		return fmt.Errorf("load image %s on %s: %w: %s", archive, node.Name, err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// Image is a container image of one layer, for pause and for tests.
type Image struct {
	// Name is the full name with a tag.
	Name string
	// Files maps a path in the image to a file of this machine. The mode is
	// taken from there, the owner is root.
	Files map[string]string
	// Links maps a path in the image to the target of a symbolic link.
	Links map[string]string
	// Dirs are empty directories.
	Dirs []string
	// Entrypoint is the command; Env is NAME=value.
	Entrypoint, Env []string
}

// Write writes the image as a docker-archive. The same content gives the same
// bytes.
func (i Image) Write(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(layer)
	diffID := hex.EncodeToString(sum[:])
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": i.Entrypoint, "Env": i.Env, "WorkingDir": "/"},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + diffID}},
	})
	if err != nil {
		return fmt.Errorf("encode configuration of image %s: %w", i.Name, err)
	}
	configSum := sha256.Sum256(config)
	configName := hex.EncodeToString(configSum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{
		"Config": configName, "RepoTags": []string{i.Name}, "Layers": []string{diffID + ".tar"},
	}})
	if err != nil {
		return fmt.Errorf("encode manifest of image %s: %w", i.Name, err)
	}
	archive := tar.NewWriter(w)
	for _, file := range []struct {
		name string
		data []byte
	}{{diffID + ".tar", layer}, {configName, config}, {"manifest.json", manifest}} {
		if err := addFile(archive, file.name, 0o644, file.data); err != nil {
			return fmt.Errorf("write image %s: %w", i.Name, err)
		}
	}
	return archive.Close()
}

func (i Image) layer() ([]byte, error) {
	var buf bytes.Buffer
	layer := tar.NewWriter(&buf)
	for _, dir := range i.directories() {
		err := layer.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
		if err != nil {
			return nil, fmt.Errorf("add %s to image %s: %w", dir, i.Name, err)
		}
	}
	for _, name := range sortedKeys(i.Files) {
		data, err := os.ReadFile(i.Files[name])
		if err != nil {
			return nil, fmt.Errorf("read file of image %s: %w", i.Name, err)
		}
		info, err := os.Stat(i.Files[name])
		if err != nil {
			return nil, fmt.Errorf("read file of image %s: %w", i.Name, err)
		}
		if err := addFile(layer, clean(name), int64(info.Mode().Perm()), data); err != nil {
			return nil, fmt.Errorf("add %s to image %s: %w", name, i.Name, err)
		}
	}
	for _, name := range sortedKeys(i.Links) {
		err := layer.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: clean(name), Linkname: i.Links[name], Mode: 0o777})
		if err != nil {
			return nil, fmt.Errorf("add %s to image %s: %w", name, i.Name, err)
		}
	}
	if err := layer.Close(); err != nil {
		return nil, fmt.Errorf("write layer of image %s: %w", i.Name, err)
	}
	return buf.Bytes(), nil
}

// directories returns every directory that the image needs, parents first.
func (i Image) directories() []string {
	set := map[string]string{}
	add := func(dir string) {
		for ; dir != "." && dir != "/"; dir = path.Dir(dir) {
			set[dir] = ""
		}
	}
	for _, dir := range i.Dirs {
		add(clean(dir))
	}
	for name := range i.Files {
		add(path.Dir(clean(name)))
	}
	for name := range i.Links {
		add(path.Dir(clean(name)))
	}
	return sortedKeys(set)
}

func clean(name string) string { return path.Clean("/" + name)[1:] }

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func addFile(w *tar.Writer, name string, mode int64, data []byte) error {
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))})
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}
