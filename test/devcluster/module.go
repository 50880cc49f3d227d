package devcluster

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

const (
	kubernetesModule = "k8s.io/kubernetes"
	binaryModule     = "github.com/juicefs-csi/driver/test/devcluster/kubernetes"
)

// stagingVersion is the version under which the modules k8s.io/X of a
// Kubernetes release are published: v0.35.4 for v1.35.4.
func stagingVersion(version string) (string, error) {
	release := strings.TrimSuffix(version, semver.Prerelease(version))
	if semver.Major(version) != "v1" || strings.Count(release, ".") != 2 {
		return "", fmt.Errorf("version %q of Kubernetes: want v1.MINOR.PATCH: %w", version, errdefs.ErrInvalidArgument)
	}
	return "v0" + strings.TrimPrefix(version, "v1"), nil
}

// rewriteModule makes the go.mod of our Kubernetes binary from the go.mod of
// k8s.io/kubernetes. That one pins its staging modules by replace directives
// to directories, which count only in the main module, so ours replaces each
// by its published version. All other requirements are taken over as they are,
// so that the binary is built from what the release was tested with; `go mod
// tidy` then drops those that the binary does not need.
func rewriteModule(upstream []byte, version string) ([]byte, error) {
	staging, err := stagingVersion(version)
	if err != nil {
		return nil, err
	}
	from, err := modfile.Parse("go.mod", upstream, nil)
	if err != nil {
		return nil, fmt.Errorf("parse go.mod of %s %s: %w", kubernetesModule, version, err)
	}
	replaced := stagingModules(from)
	var to strings.Builder
	fmt.Fprintf(&to, "module %s\n", binaryModule)
	if from.Go != nil {
		fmt.Fprintf(&to, "go %s\n", from.Go.Version)
	}
	for _, setting := range from.Godebug {
		fmt.Fprintf(&to, "godebug %s=%s\n", setting.Key, setting.Value)
	}
	fmt.Fprintf(&to, "require (\n%s %s\n", kubernetesModule, version)
	for _, require := range from.Require {
		if !slices.Contains(replaced, require.Mod.Path) {
			fmt.Fprintln(&to, require.Mod.Path, require.Mod.Version)
		}
	}
	for _, module := range replaced {
		// Samples are in no program, and not every mirror has them.
		if !strings.HasPrefix(module, "k8s.io/sample-") {
			fmt.Fprintln(&to, module, staging)
		}
	}
	fmt.Fprint(&to, ")\nreplace (\n")
	for _, module := range replaced {
		fmt.Fprintf(&to, "%s => %s %s\n", module, module, staging)
	}
	fmt.Fprint(&to, ")\n")
	file, err := modfile.Parse("go.mod", []byte(to.String()), nil)
	if err != nil {
		return nil, fmt.Errorf("parse new go.mod: %w", err)
	}
	return file.Format()
}

// stagingModules returns the modules that a go.mod replaces by directories of
// its own repository.
func stagingModules(file *modfile.File) []string {
	var modules []string
	for _, replace := range file.Replace {
		if replace.New.Version == "" && path.Base(replace.New.Path) == path.Base(replace.Old.Path) &&
			strings.HasPrefix(replace.New.Path, "./staging/") {
			modules = append(modules, replace.Old.Path)
		}
	}
	return modules
}

// requiredKubernetes returns the Kubernetes version that a go.mod of our
// binary pins.
func requiredKubernetes(data []byte) (string, error) {
	file, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		return "", fmt.Errorf("parse go.mod: %w", err)
	}
	for _, require := range file.Require {
		if require.Mod.Path == kubernetesModule {
			return require.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("go.mod does not require %s: %w", kubernetesModule, errdefs.ErrInvalidArgument)
}
