package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/juicefs-csi/driver/cli/kubectl-jfs/internal/table"
	"github.com/juicefs-csi/driver/libs/version"
)

type versionRow struct {
	Release string `json:"release"`
}

func newVersion(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the release of this plugin",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := table.ParseFormat(o.output)
			if err != nil {
				return err
			}
			if format == table.JSON || format == table.YAML {
				return table.Write(cmd.OutOrStdout(), format, nil, []versionRow{{version.Release()}})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), version.Release())
			return err
		},
	}
}
