// Command kubectl-jfs is the kubectl plugin of the JuiceFS CSI driver: it shows
// mounts and the pods that use them, with the rights of its user.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/juicefs-csi/driver/cli/kubectl-jfs/internal/cluster"
	"github.com/juicefs-csi/driver/cli/kubectl-jfs/internal/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command.New(cluster.Connect).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kubectl-jfs:", err)
		os.Exit(1)
	}
}
