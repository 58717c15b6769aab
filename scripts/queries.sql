-- Ten queries of a shards folder for DuckDB. In the folder that holds `shards`:
--
--     duckdb < scripts/queries.sql
--
-- Below each question stand the columns of its answer and its number of rows;
-- scripts/test_readers.py runs every query and compares.

-- 1. How many boxes has each class?
-- columns: class, pairs, boxes, boxes_per_pair
-- rows: one per class
SELECT s.class, count(*) AS pairs, sum(len(p.boxes)) AS boxes,
       round(avg(len(p.boxes)), 2) AS boxes_per_pair
FROM 'shards/epoch=*/*.parquet' p JOIN 'shards/sources.parquet' s USING (image_id)
GROUP BY s.class ORDER BY s.class;

-- 2. Are the epochs alike?
-- columns: epoch, pairs, boxes_per_pair, without_boxes, mean_crop
-- rows: one per epoch
SELECT epoch, count(*) AS pairs, round(avg(len(boxes)), 2) AS boxes_per_pair,
       count(*) FILTER (len(boxes) = 0) AS without_boxes,
       round(avg(view1.crop.width * view1.crop.height / (source_width * source_height)), 3)
           AS mean_crop
FROM read_parquet('shards/epoch=*/*.parquet', hive_partitioning = true)
GROUP BY epoch ORDER BY epoch;

-- 3. Which pairs barely overlap? The IoU is that of the two crops in the source image.
-- columns: epoch, path, iou, boxes
-- rows: at most 20
WITH pairs AS (
    SELECT epoch, path, view1.crop AS a, view2.crop AS b, len(boxes) AS boxes
    FROM read_parquet('shards/epoch=*/*.parquet', hive_partitioning = true)
), shared AS (
    SELECT *, greatest(0, least(a.x + a.width, b.x + b.width) - greatest(a.x, b.x))
            * greatest(0, least(a.y + a.height, b.y + b.height) - greatest(a.y, b.y)) AS common
    FROM pairs
)
SELECT epoch, path, round(common / (a.width * a.height + b.width * b.height - common), 4) AS iou,
       boxes
FROM shared ORDER BY iou, epoch, path LIMIT 20;

-- 4. Which are the smallest boxes? Sides in pixels of the view in which the box is smaller.
-- columns: epoch, path, box, width, height
-- rows: at most 20
WITH boxes AS (
    SELECT epoch, path, generate_subscripts(boxes, 1) AS box, unnest(boxes) AS b
    FROM read_parquet('shards/epoch=*/*.parquet', hive_partitioning = true)
)
SELECT epoch, path, box, least(b.view1[3] - b.view1[1], b.view2[3] - b.view2[1]) AS width,
       least(b.view1[4] - b.view1[2], b.view2[4] - b.view2[2]) AS height
FROM boxes ORDER BY width * height, epoch, path, box LIMIT 20;

-- 5. Is any augmentation over-represented? More than 4 standard deviations are not chance. The
-- requested frequencies are those of the presets paper and reference; dataset.toml has others.
-- columns: view, step, frequency, requested, deviations
-- rows: 14
WITH views AS (
    SELECT 1 AS view, view1 AS v FROM 'shards/epoch=*/*.parquet'
    UNION ALL SELECT 2, view2 FROM 'shards/epoch=*/*.parquet'
), counts AS (
    SELECT view, count(*) AS n, unnest([
        {step: 'flip', found: avg(v.flip::int), requested: 0.5},
        {step: 'vertical_flip', found: avg(v.vertical_flip::int), requested: 0.0},
        {step: 'turns', found: avg((v.turns != 0)::int), requested: 0.0},
        {step: 'jitter', found: avg((v.jitter IS NOT NULL)::int), requested: 0.8},
        {step: 'grayscale', found: avg(v.grayscale::int), requested: 0.2},
        {step: 'blur', found: avg((v.blur IS NOT NULL)::int), requested: if(view = 1, 1.0, 0.1)},
        {step: 'solarize', found: avg(v.solarize::int), requested: if(view = 1, 0.0, 0.2)}
    ]) AS s
    FROM views GROUP BY view
)
SELECT view, s.step AS step, round(s.found, 4) AS frequency, s.requested AS requested,
       round((s.found - s.requested) / nullif(sqrt(s.requested * (1 - s.requested) / n), 0), 1)
           AS deviations
FROM counts ORDER BY view, step;

-- 6. How does one image change from epoch to epoch?
-- columns: epoch, path, crop1, crop2, flip1, flip2, boxes
-- rows: one per epoch
SELECT epoch, path, view1.crop AS crop1, view2.crop AS crop2, view1.flip AS flip1,
       view2.flip AS flip2, len(boxes) AS boxes
FROM read_parquet('shards/epoch=*/*.parquet', hive_partitioning = true)
WHERE image_id = (SELECT min(image_id) FROM 'shards/epoch=*/*.parquet') ORDER BY epoch;

-- 7. Which images are most often without boxes?
-- columns: path, size, epochs, without_boxes
-- rows: at most 20
SELECT path, any_value(source_width || '×' || source_height) AS size, count(*) AS epochs,
       count(*) FILTER (len(boxes) = 0) AS without_boxes
FROM 'shards/epoch=*/*.parquet' GROUP BY path ORDER BY without_boxes DESC, path LIMIT 20;

-- 8. Where in the images are the boxes? Their centers on a grid of 4 by 4.
-- columns: column, row, boxes
-- rows: at most 16
WITH centers AS (
    SELECT (b.source[1] + b.source[3]) / 2 / source_width AS x,
           (b.source[2] + b.source[4]) / 2 / source_height AS y
    FROM (
        SELECT source_width, source_height, unnest(boxes) AS b FROM 'shards/epoch=*/*.parquet'
    )
)
SELECT floor(4 * x)::int AS "column", floor(4 * y)::int AS "row", count(*) AS boxes
FROM centers GROUP BY ALL ORDER BY "row", "column";

-- 9. Which images have no rows, and why?
-- columns: path, bytes, error
-- rows: one per unreadable image
SELECT path, bytes, error FROM 'shards/sources.parquet' WHERE error IS NOT NULL ORDER BY path;

-- 10. Which augmentations of view 2 occur together, and how often?
-- columns: flip, jitter, grayscale, blur, solarize, frequency
-- rows: at most 32
SELECT view2.flip AS flip, view2.jitter IS NOT NULL AS jitter, view2.grayscale AS grayscale,
       view2.blur IS NOT NULL AS blur, view2.solarize AS solarize,
       round(count(*) / sum(count(*)) OVER (), 4) AS frequency
FROM 'shards/epoch=*/*.parquet' GROUP BY ALL ORDER BY ALL;
