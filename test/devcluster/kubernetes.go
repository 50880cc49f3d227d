package devcluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// build is what a cluster needs from the cache.
type build struct {
	version    string // of Kubernetes
	kubernetes string // the binary
	pauseImage string // an archive
}

// prepareBuild makes what is not in the cache yet: minutes the first time,
// nothing afterwards.
func prepareBuild(ctx context.Context, opts Options, say *reporter) (build, error) {
	source, err := sourceDir(opts.SourceDir)
	if err != nil {
		return build{}, err
	}
	version, err := resolveVersion(opts.KubernetesVersion, source)
	if err != nil {
		return build{}, err
	}
	if err := checkContainerd(ctx, version); err != nil {
		return build{}, err
	}
	b := build{version: version}
	if b.kubernetes, err = buildKubernetes(ctx, opts.CacheDir, source, version, say); err != nil {
		return build{}, err
	}
	b.pauseImage, err = buildPauseImage(ctx, opts.CacheDir, source, say)
	return b, err
}

// BuildKubernetes builds the Kubernetes binary into the cache, unless it is
// there, and returns its path. Of the options it uses KubernetesVersion,
// CacheDir and SourceDir.
func BuildKubernetes(ctx context.Context, opts Options, progress io.Writer) (string, error) {
	source, err := sourceDir(opts.SourceDir)
	if err != nil {
		return "", err
	}
	version, err := resolveVersion(opts.KubernetesVersion, source)
	if err != nil {
		return "", err
	}
	return buildKubernetes(ctx, opts.CacheDir, source, version, newReporter(progress))
}

// sourceDir finds test/devcluster of the checkout that the working directory
// is in.
func sourceDir(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find working directory: %w", err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		candidate := filepath.Join(at, "test", "devcluster")
		if _, err := os.Stat(filepath.Join(candidate, "kubernetes", "go.mod")); err == nil {
			return candidate, nil
		}
		if at == "/" {
			return "", fmt.Errorf("%s is not in a checkout of the driver: give the directory test/devcluster: %w",
				dir, errdefs.ErrNotFound)
		}
	}
}

func resolveVersion(version, source string) (string, error) {
	if version == "" {
		data, err := os.ReadFile(filepath.Join(source, "kubernetes", "go.mod"))
		if err != nil {
			return "", fmt.Errorf("read pinned Kubernetes version: %w", err)
		}
		return requiredKubernetes(data)
	}
	_, err := stagingVersion(version)
	return version, err
}

// buildKubernetes keeps beside the binary a digest of what it was built from.
func buildKubernetes(ctx context.Context, cache, source, version string, say *reporter) (string, error) {
	dir := filepath.Join(cache, "kubernetes", version)
	binary, digestFile := filepath.Join(dir, "kubernetes"), filepath.Join(dir, "source.sha256")
	digest, err := sourceDigest(filepath.Join(source, "kubernetes"))
	if err != nil {
		return "", err
	}
	if known, err := os.ReadFile(digestFile); err == nil && string(known) == digest && executable(binary) == nil {
		return binary, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("create cache: %w", err)
	}
	module, err := kubernetesModuleDir(ctx, dir, source, version, say)
	if err != nil {
		return "", err
	}
	say.printf("building Kubernetes %s (about 10 minutes the first time on 2 processors)", version)
	flags := versionFlags(version)
	if err := goBuild(ctx, module, binary, flags, say); err != nil {
		return "", fmt.Errorf("build Kubernetes %s: %w", version, err)
	}
	return binary, writeFileAtomic(digestFile, []byte(digest), 0o644)
}

// versionFlags set the version that the programs report.
func versionFlags(version string) string {
	parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X", pkg+".gitVersion="+version,
			"-X", pkg+".gitMajor="+parts[0],
			"-X", pkg+".gitMinor="+parts[1],
			"-X", pkg+".gitTreeState=clean")
	}
	return strings.Join(flags, " ")
}

func sourceDigest(dir string) (string, error) {
	h := sha256.New()
	for _, file := range []string{"main.go", "go.mod"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return "", fmt.Errorf("read source of Kubernetes binary: %w", err)
		}
		_, _ = fmt.Fprintf(h, "%d\n%s", len(data), data) // a hash takes everything
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// kubernetesModuleDir returns a module directory for the version: the
// committed one if it pins this version, else a copy in the cache with a
// go.mod made from that of the release.
func kubernetesModuleDir(ctx context.Context, dir, source, version string, say *reporter) (string, error) {
	committed := filepath.Join(source, "kubernetes")
	data, err := os.ReadFile(filepath.Join(committed, "go.mod"))
	if err != nil {
		return "", fmt.Errorf("read go.mod: %w", err)
	}
	pinned, err := requiredKubernetes(data)
	if err != nil {
		return "", err
	}
	if pinned == version {
		return committed, nil
	}
	module := filepath.Join(dir, "src")
	return module, writeKubernetesModule(ctx, module, filepath.Join(committed, "main.go"), version, say)
}

// PinKubernetes makes the committed go.mod and go.sum anew for a version, or
// for the version they have.
func PinKubernetes(ctx context.Context, opts Options, progress io.Writer) error {
	source, err := sourceDir(opts.SourceDir)
	if err != nil {
		return err
	}
	version, err := resolveVersion(opts.KubernetesVersion, source)
	if err != nil {
		return err
	}
	dir := filepath.Join(source, "kubernetes")
	return writeKubernetesModule(ctx, dir, filepath.Join(dir, "main.go"), version, newReporter(progress))
}

// writeKubernetesModule writes a module that builds the Kubernetes binary in
// a version: main.go is copied, go.mod and go.sum are made.
func writeKubernetesModule(ctx context.Context, dir, mainFile, version string, say *reporter) error {
	say.printf("making go.mod for Kubernetes %s", version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create module directory: %w", err)
	}
	upstream, err := downloadGoMod(ctx, version)
	if err != nil {
		return err
	}
	mod, err := rewriteModule(upstream, version)
	if err != nil {
		return err
	}
	target := filepath.Join(dir, "main.go")
	if target != mainFile {
		if err := copyFile(mainFile, target); err != nil {
			return fmt.Errorf("copy main.go: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), mod, 0o644); err != nil {
		return fmt.Errorf("write go.mod: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, "go.sum")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old go.sum: %w", err)
	}
	_, err = goOutput(ctx, dir, "mod", "tidy")
	return err
}

// downloadGoMod fetches the go.mod of a Kubernetes release by way of the go
// command, which checks it.
func downloadGoMod(ctx context.Context, version string) ([]byte, error) {
	out, err := goOutput(ctx, os.TempDir(), "mod", "download", "-json", kubernetesModule+"@"+version)
	if err != nil {
		return nil, err
	}
	var info struct{ GoMod string }
	if err := json.Unmarshal(out, &info); err != nil {
		return nil, fmt.Errorf("read answer of go mod download: %w", err)
	}
	data, err := os.ReadFile(info.GoMod)
	if err != nil {
		return nil, fmt.Errorf("read go.mod of Kubernetes %s: %w", version, err)
	}
	return data, nil
}

// buildPauseImage is keyed by its source.
func buildPauseImage(ctx context.Context, cache, source string, say *reporter) (string, error) {
	data, err := os.ReadFile(filepath.Join(source, "pause", "main.go"))
	if err != nil {
		return "", fmt.Errorf("read source of pause: %w", err)
	}
	sum := sha256.Sum256(data)
	dir := filepath.Join(cache, "images")
	archive := filepath.Join(dir, "pause-"+hex.EncodeToString(sum[:6])+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("create cache: %w", err)
	}
	tmp, err := os.MkdirTemp(dir, "pause-")
	if err != nil {
		return "", fmt.Errorf("create directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	binary := filepath.Join(tmp, "pause")
	say.printf("building the pause image")
	// The file alone is built, so the workspace does not matter.
	if err := goBuild(ctx, filepath.Join(source, "pause"), binary, "-s -w", say, "main.go"); err != nil {
		return "", fmt.Errorf("build pause: %w", err)
	}
	image := Image{Name: pauseImageName, Files: map[string]string{"pause": binary}, Entrypoint: []string{"/pause"}}
	out, err := os.Create(filepath.Join(tmp, "image.tar"))
	if err != nil {
		return "", fmt.Errorf("create image: %w", err)
	}
	if err := errors.Join(image.Write(out), out.Close()); err != nil {
		return "", fmt.Errorf("write pause image: %w", err)
	}
	return archive, os.Rename(out.Name(), archive)
}
