// The type of a dashboard file: Grafana's own types, with the options of the panels that we use.

import type {Dashboard as Published, DataQuery, Panel} from '@grafana/schema';
import type * as NodeGraph from '@grafana/schema/dist/types/raw/composable/nodegraph/panelcfg/x/NodeGraphPanelCfg_types.gen.d.ts';
import type * as Stat from '@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen.d.ts';
import type * as TimeSeries from '@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.d.ts';

// JSON contains the values of Grafana's enumerations, not their names.
type Json<T> = T extends string ? `${T}` : T extends object ? {[Key in keyof T]: Json<T[Key]>} : T;

// The published package has no types for queries. These are the fields of Prometheus queries that we use.
interface Query extends DataQuery {
  datasource: {type: 'prometheus'; uid: 'prometheus'};
  editorMode: 'code';
  exemplar?: boolean;
  expr: string;
  format?: 'table';
  instant?: boolean;
  legendFormat: string;
  range?: boolean;
}

type FieldConfigSource = NonNullable<Panel['fieldConfig']>;

interface OurPanel<Type extends string, Options, Custom> extends Omit<Panel, 'type' | 'options' | 'targets' | 'fieldConfig'> {
  type: Type;
  title: string;
  description: string;
  options: Options;
  targets: Query[];
  fieldConfig: Omit<FieldConfigSource, 'defaults'> & {
    defaults: Omit<FieldConfigSource['defaults'], 'custom'> & {unit: string; custom?: Custom};
  };
}

type AnyPanel =
  | OurPanel<'nodeGraph', NodeGraph.Options, never>
  | OurPanel<'stat', Stat.Options, never>
  | OurPanel<'timeseries', TimeSeries.Options, TimeSeries.FieldConfig>;

export type Dashboard = Json<Omit<Published, 'panels'> & {uid: string; title: string; panels: AnyPanel[]}>;
